//! From what the user wrote as an operator to what a worker must know: cheap checks first, nothing is started.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ops::foreign::{check_runnable, describe};
use protocol::control::{OpCode, OpKind, OpSpec, Protocol};

use crate::cli::{self, Productions, Stage, refuse};

/// An operator that is there; what it is may still have to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    Builtin {
        spec: OpSpec,
    },
    /// `kind`: from the prefix.
    File {
        stage: Stage,
        path: PathBuf,
        kind: Option<OpKind>,
    },
}

/// An operator with all that is known of it. `content`: what must be in HyDFS before a worker starts; `notes`: what its
/// user should know before the job starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub spec: OpSpec,
    pub content: Option<(String, PathBuf)>,
    pub notes: Vec<String>,
}

/// Finds stage `k`'s operator (counted from 1) and checks all that can be checked without running it.
pub fn locate(k: usize, stage: &Stage) -> Result<Located, cli::Error> {
    let no = |what: String| Err(refuse(stage.number, format!("op{k}_exe"), &stage.exe, what));
    let (kind, name) = split_kind(&stage.exe);
    if let (None, Some(kind)) = (kind, ops::kind_of(name)) {
        if let Err(error) = ops::builtin(name, &stage.args) {
            let given = shell_words::join(&stage.args);
            return Err(refuse(
                stage.number + 1,
                format!("op{k}_args"),
                &given,
                error.to_string(),
            ));
        }
        let spec = OpSpec {
            exe: stage.exe.clone(),
            args: stage.args.clone(),
            kind,
            code: OpCode::Builtin,
            deterministic: true,
        };
        return Ok(Located::Builtin { spec });
    }
    let Some(path) = find_file(name) else {
        return no(not_found(name));
    };
    if let Err(why) = check_runnable(&path) {
        return no(why.to_string());
    }
    Ok(Located::File {
        stage: stage.clone(),
        path,
        kind,
    })
}

/// Asks a foreign executable what it is, and reads its content. `k` counts from 1; `waiting` is given a word for people while
/// the answer takes long, at most `within`.
pub async fn resolve(
    k: usize,
    located: Located,
    exactly_once: bool,
    productions: Productions,
    within: Duration,
    waiting: impl Fn(&str),
) -> Result<Resolved, cli::Error> {
    let (stage, path, prefix) = match located {
        Located::Builtin { spec } => {
            let notes = first_groups(k, &spec).into_iter().collect();
            return Ok(Resolved {
                spec,
                content: None,
                notes,
            });
        }
        Located::File { stage, path, kind } => (stage, path, kind),
    };
    let no = |what: String| refuse(stage.number, format!("op{k}_exe"), &stage.exe, what);
    let said = describe(&path, &stage.args, within, waiting).await.map_err(|e| {
        let stderr = if e.stderr.is_empty() {
            String::new()
        } else {
            format!("; it said: {}", e.stderr.join(" | "))
        };
        no(format!("it could not be asked what it is: {e}{stderr}"))
    })?;
    let kind = match (&said, prefix) {
        (Some(d), Some(kind)) if d.kind != kind => {
            return Err(no(format!(
                "the prefix says {kind}, the program itself says {}; leave the prefix out",
                d.kind
            )));
        }
        (Some(d), _) => d.kind,
        (None, kind) => kind.unwrap_or(OpKind::Transform),
    };
    let content = path.clone();
    let hash = tokio::task::spawn_blocking(move || {
        std::fs::read(&content).map(|bytes| blake3::hash(&bytes).to_hex())
    })
    .await
    .map_err(|e| no(e.to_string()))?
    .map_err(|e| no(format!("{} cannot be read: {e}", path.display())))?;
    let hydfs_name = format!("ops/{hash}");
    let says_yes = said.as_ref().is_none_or(|d| d.deterministic);
    let snapshot = said.as_ref().is_some_and(|d| d.snapshot);
    let forgets = kind == OpKind::Aggregate && !snapshot;
    if exactly_once && forgets && !says_yes && productions != Productions::Weak {
        return Err(no(
            "an aggregate that is not deterministic and cannot save its state cannot be made exact: let it save its state \
             (the SDKs do), or say false for exactly_once"
                .into(),
        ));
    }
    let spec = OpSpec {
        exe: stage.exe,
        args: stage.args,
        kind,
        code: OpCode::Foreign {
            hydfs_name: hydfs_name.clone(),
            hash: hash.to_string(),
            protocol: said.as_ref().map_or(Protocol::Text, |d| d.protocol),
            keys: said.as_ref().is_none_or(|d| d.keys),
            snapshot,
        },
        deterministic: match productions {
            Productions::Auto => says_yes,
            // Its whole input is kept; that is as strong.
            Productions::Strong => forgets,
            Productions::Weak => true,
        },
    };
    let notes = match exactly_once {
        true => notes(k, &spec, says_yes),
        false => vec![],
    };
    Ok(Resolved {
        spec,
        content: Some((hydfs_name, path)),
        notes,
    })
}

/// For `--scale-stateful`: refuses a job with a state that cannot be moved key by key.
pub fn all_move_state(resolved: &[Resolved]) -> Result<(), cli::Error> {
    let kept = |r: &&Resolved| r.spec.kind == OpKind::Aggregate && !r.spec.moves_state();
    match resolved.iter().find(kept) {
        None => Ok(()),
        Some(r) => Err(cli::Error::Option {
            option: "--scale-stateful",
            what: format!(
                "only count, sum, avg, min and max, without --productions strong, can give keys with their state to other tasks, not `{}`; leave \
                 this out, and the job's other stages are scaled",
                r.spec.exe
            ),
        }),
    }
}

/// In the first stage a key is a file's name and a line's number: each line is a group by itself, whatever `--key` says, which
/// is the output's.
fn first_groups(k: usize, spec: &OpSpec) -> Option<String> {
    let exe = &spec.exe;
    (k == 1 && spec.kind == OpKind::Aggregate).then(|| {
        format!(
            "warning: stage 1 ({exe}) groups by the keys of its input, which are FILE:LINE there, so each line is a group of its own \
             (--key is for the output); give the key in a stage before it: identity '--key word:0' {exe} ..."
        )
    })
}

/// What exactly-once costs with this operator, or where it ends.
fn notes(k: usize, spec: &OpSpec, says_deterministic: bool) -> Vec<String> {
    let mut notes = vec![];
    let saves = matches!(
        spec.code,
        OpCode::Builtin
            | OpCode::Foreign {
                protocol: Protocol::Batch,
                snapshot: true,
                ..
            }
    );
    if spec.kind == OpKind::Aggregate && !saves {
        notes.push(format!(
            "note: stage {k} ({}) cannot save its state: all its input is kept in its tasks' logs, and given to it again \
             when it is restarted",
            spec.exe
        ));
    }
    if spec.deterministic && !says_deterministic {
        notes.push(format!(
            "warning: stage {k} ({}) says that its output depends on more than its input; with --productions weak a restart \
             may mix what it puts out the second time with the first, and exactly-once does not hold for it",
            spec.exe
        ));
    }
    notes
}

fn split_kind(exe: &str) -> (Option<OpKind>, &str) {
    let kinds = [
        ("filter:", OpKind::Filter),
        ("transform:", OpKind::Transform),
        ("aggregate:", OpKind::Aggregate),
    ];
    let found = kinds
        .iter()
        .find_map(|(prefix, kind)| Some((*kind, exe.strip_prefix(prefix)?)));
    found.map_or((None, exe), |(kind, name)| (Some(kind), name))
}

/// As a path, or like a shell: in the current folder first, then along PATH.
fn find_file(name: &str) -> Option<PathBuf> {
    let here = Path::new(name);
    if here.exists() {
        return here.canonicalize().ok();
    }
    if name.contains('/') || name.is_empty() {
        return None;
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

fn not_found(name: &str) -> String {
    let nearest = ops::names()
        .iter()
        .map(|known| (distance(name, known), *known))
        .min();
    let hint = match nearest {
        // Two swapped letters are two edits.
        Some((d, known)) if d <= if name.len() < 4 { 1 } else { 2.max(name.len() / 3) } => {
            format!("did you mean `{known}`? ")
        }
        _ => String::new(),
    };
    format!(
        "no such operator and no such file. {hint}There are: {}; or give the path of an executable",
        ops::names().join(", ")
    )
}

/// Edit distance (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn stage(exe: &str, args: &[&str]) -> Stage {
        Stage {
            exe: exe.into(),
            args: args.iter().map(|a| a.to_string()).collect(),
            number: 5,
        }
    }

    async fn resolve(
        k: usize,
        located: Located,
        exactly_once: bool,
        productions: Productions,
    ) -> Result<Resolved, cli::Error> {
        super::resolve(
            k,
            located,
            exactly_once,
            productions,
            Duration::from_secs(5),
            |_| {},
        )
        .await
    }

    fn refused(exe: &str, args: &[&str]) -> String {
        locate(2, &stage(exe, args)).expect_err(exe).to_string()
    }

    #[test]
    fn operators_that_come_with_it_are_known_and_their_arguments_checked() {
        let Ok(Located::Builtin { spec }) = locate(1, &stage("grep", &["static"])) else {
            panic!()
        };
        assert_eq!((spec.kind, spec.code), (OpKind::Filter, OpCode::Builtin));
        let said = refused("grep", &[]);
        assert!(said.contains("argument 6 (op2_args)"), "{said}");
    }

    #[test]
    fn a_misspelt_operator_is_guessed() {
        let said = refused("gerp", &[]);
        assert!(
            said.contains("argument 5 (op2_exe) is `gerp`") && said.contains("did you mean `grep`"),
            "{said}"
        );
        assert!(refused("indentity", &[]).contains("did you mean `identity`"));
        assert!(!refused("zzzzzzzz", &[]).contains("did you mean"));
        assert_eq!(
            (
                distance("gerp", "grep"),
                distance("", "abc"),
                distance("abc", "abc")
            ),
            (2, 3, 0)
        );
    }

    #[tokio::test]
    async fn files_must_be_there_and_executable() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("op.sh");
        let name = file.to_str().unwrap();
        assert!(refused(name, &[]).contains("no such file"));
        std::fs::write(&file, "#!/bin/sh\nexit 0\n").unwrap();
        assert!(refused(name, &[]).contains(&format!("chmod +x {name}")));
        assert!(refused(dir.path().to_str().unwrap(), &[]).contains("not a file"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let located = locate(2, &stage(&format!("filter:{name}"), &["a"])).unwrap();
        let auto = Productions::Auto;
        let resolved = resolve(2, located, true, auto).await.unwrap();
        assert_eq!(resolved.spec.kind, OpKind::Filter);
        assert!(resolved.spec.deterministic && resolved.notes.is_empty());
        let hash = blake3::hash(b"#!/bin/sh\nexit 0\n").to_hex();
        assert_eq!(resolved.content.unwrap().0, format!("ops/{hash}"));
        let plain = locate(2, &stage(name, &[])).unwrap();
        let plain = resolve(2, plain, true, Productions::Strong).await.unwrap();
        assert_eq!(
            (plain.spec.kind, plain.spec.deterministic),
            (OpKind::Transform, false)
        );
        let aggregate = || locate(2, &stage(&format!("aggregate:{name}"), &[])).unwrap();
        let kept = resolve(2, aggregate(), true, auto).await.unwrap();
        assert!(
            kept.notes[0].contains("all its input is kept"),
            "{:?}",
            kept.notes
        );
        assert!(
            resolve(2, aggregate(), false, auto)
                .await
                .unwrap()
                .notes
                .is_empty()
        );
    }

    #[tokio::test]
    async fn what_an_executable_says_of_itself_decides_what_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("op.sh");
        let line = "rainstorm-operator/1 kind=transform protocol=text deterministic=no";
        std::fs::write(&file, format!("#!/bin/sh\necho {line}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let located = || locate(1, &stage(file.to_str().unwrap(), &[])).unwrap();
        let auto = resolve(1, located(), true, Productions::Auto).await.unwrap();
        assert!(!auto.spec.deterministic && auto.notes.is_empty(), "{auto:?}");
        let weak = resolve(1, located(), true, Productions::Weak).await.unwrap();
        assert!(weak.spec.deterministic && weak.notes[0].contains("exactly-once does not hold"));
        let line = "rainstorm-operator/1 kind=aggregate protocol=text deterministic=no";
        std::fs::write(&file, format!("#!/bin/sh\necho {line}\n")).unwrap();
        let refused = resolve(1, located(), true, Productions::Auto).await.unwrap_err();
        assert!(refused.to_string().contains("cannot be made exact"), "{refused}");
        let line = "rainstorm-operator/1 kind=transform protocol=text deterministic=no";
        std::fs::write(&file, format!("#!/bin/sh\necho {line}\n")).unwrap();
        let loose = resolve(1, located(), false, Productions::Weak).await.unwrap();
        assert!(loose.notes.is_empty());
    }
}
