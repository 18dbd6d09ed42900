use std::os::unix::fs::PermissionsExt;

use super::*;

async fn ask(script: &str) -> Result<Option<Description>, Error> {
    let dir = tempfile::tempdir().unwrap();
    let exe = dir.path().join("op");
    std::fs::write(&exe, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&exe, PermissionsExt::from_mode(0o755)).unwrap();
    describe(&exe, &["arg".to_owned()], Duration::from_secs(2), |_| {}).await
}

#[tokio::test]
async fn who_waits_is_told_and_a_slow_start_is_borne() {
    let dir = tempfile::tempdir().unwrap();
    let exe = dir.path().join("op");
    // It goes on when somebody has been told that it takes long.
    let line = "rainstorm-operator/1 kind=filter protocol=text";
    let script = format!("#!/bin/sh\nwhile [ ! -e \"$0.told\" ]; do sleep 0.02; done\necho {line}\n");
    std::fs::write(&exe, script).unwrap();
    std::fs::set_permissions(&exe, PermissionsExt::from_mode(0o755)).unwrap();
    let said = std::sync::Mutex::new(vec![]);
    let told = dir.path().join("op.told");
    let done = describe(&exe, &[], DESCRIBE_WITHIN, |word| {
        said.lock().unwrap().push(word.to_owned());
        std::fs::write(&told, "").unwrap();
    });
    assert_eq!(done.await.unwrap().unwrap().kind, OpKind::Filter);
    let said = said.into_inner().unwrap();
    assert!(
        said.len() == 1 && said[0].contains("what it is: 2 s, at most 30 s"),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_program_says_what_it_is() {
    let said = "[ \"$RAINSTORM_DESCRIBE$1\" = 1arg ] && echo rainstorm-operator/1 kind=filter protocol=batch snapshot=yes deterministic=no keys=no later=x";
    let want = Description {
        kind: OpKind::Filter,
        protocol: Protocol::Batch,
        snapshot: true,
        deterministic: false,
        keys: false,
    };
    assert_eq!(ask(said).await, Ok(Some(want.clone())));
    assert_eq!(parse(want.to_string().as_bytes()), Ok(want));
    let least = parse(b"rainstorm-operator/1 kind=aggregate protocol=text\n").unwrap();
    assert!(!least.snapshot && least.deterministic && least.keys);
}

#[tokio::test]
async fn what_it_left_behind_is_not_waited_for() {
    let line = "rainstorm-operator/1 kind=filter protocol=text";
    let said = ask(&format!("sleep 600 &\nsetsid sleep 600 &\necho {line}")).await;
    assert_eq!(said.unwrap().unwrap().kind, OpKind::Filter);
}

#[tokio::test]
async fn a_program_that_says_nothing_speaks_text() {
    assert_eq!(ask("while read line; do echo filter; done").await, Ok(None));
    assert_eq!(
        ask("echo no input >&2; exit 1").await,
        Ok(None),
        "as a script does that cannot bear an empty input"
    );
}

#[tokio::test]
async fn what_cannot_be_is_explained() {
    for (script, says) in [
        (
            "echo rainstorm-operator/1 kind=filter protocol=text snapshot=yes",
            "no words for",
        ),
        (
            "echo rainstorm-operator/1 kind=aggregate protocol=batch keys=no",
            "an aggregate needs the keys",
        ),
        ("echo rainstorm-operator/2 kind=filter", "version 2"),
        ("echo rainstorm-operator/1 protocol=text", "does not say its kind"),
        ("echo rainstorm-operator/1 kind=x protocol=text", "kind=x"),
        (
            "echo rainstorm-operator/1 kind=filter protocol=text snapshot=maybe",
            "snapshot=maybe",
        ),
        (
            "echo rainstorm-operator/1 kind=filter protocol=text; echo more",
            "more than its description: `more`",
        ),
        ("echo hello", "printed `hello` without having read a tuple"),
        ("yes", "printed `y`"),
        ("exec sleep 100", "did not end within 2 s"),
        ("echo gone >&2; exit 127", "does not run"),
    ] {
        let e = ask(script).await.unwrap_err();
        assert!(e.what.contains(says), "{script}: {e}");
        assert!(!e.restart_helps);
        assert_eq!(e.stderr.len(), usize::from(script.contains("gone")));
    }
    let e = describe(Path::new("/nonexistent/op"), &[], DESCRIBE_WITHIN, |_| {})
        .await
        .unwrap_err();
    assert!(e.what.contains("cannot be started"), "{e}");
}

#[test]
fn any_bytes_can_be_said() {
    use proptest::prelude::*;
    proptest!(|(said: Vec<u8>, tail in "[a-z=/ \n]{0,40}")| {
        let _ = parse(&said);
        let _ = parse(format!("rainstorm-operator/1 {tail}").as_bytes());
    });
}
