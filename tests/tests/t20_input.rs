//! Odd input passes byte-exact; bad input is refused before anything starts. (faults.md: lines and files of every shape)

use anyhow::{Result, ensure};
use system_tests::{Cluster, write_text};

#[test]
fn t21_lines_and_files_of_every_shape() -> Result<()> {
    let cluster = Cluster::up("127.0.36", 3)?;
    let mut odd = b"plain\n\nCRLF\r\n\xff\xfe not UTF-8 \x00 NUL\n\r\n\ttabs\t\n".to_vec();
    odd.extend(std::iter::repeat_n(b'x', 1 << 20));
    odd.extend(b"\nno final newline");
    for (name, content) in [
        ("odd", &odd[..]),
        ("empty", b""),
        ("newline", b"\n"),
        ("cr", b"a\r"),
        ("one", b"x\n"),
    ] {
        std::fs::write(cluster.path(name), content)?;
        cluster.hydfs(&["create", name, &format!("shapes/{name}")])?;
    }
    let out = cluster.leader(&[
        "--job",
        "shapes",
        "2",
        "3",
        "identity",
        "",
        "identity",
        "",
        "shapes",
        "out/shapes",
        "true",
        "false",
    ])?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // The newline goes, and a CR before it; a last line without a newline keeps its CR.
    cluster.check(
        "out/shapes",
        r#"for f in odd empty newline cr one; do awk -v f=$f '{ last = $0; if (!(f == "cr")) sub(/\r$/, ""); print "shapes/" f ":" NR "\t" $0 }' $f; done"#,
    )?;
    // What is printed is what is stored.
    let mut printed: Vec<&[u8]> = out.stdout.split_inclusive(|b| *b == b'\n').collect();
    printed.sort();
    system_tests::compare(&cluster.sorted("out/shapes")?, &printed.concat())
}

#[test]
fn t22_bad_arguments_are_refused() -> Result<()> {
    let cluster = Cluster::up("127.0.37", 3)?;
    write_text(&cluster.path("data.txt"), 100, 1)?;
    cluster.hydfs(&["create", "data.txt", "in/data.txt"])?;
    std::fs::write(cluster.path("not-executable"), "#!/bin/sh\n")?;
    std::fs::create_dir(cluster.path("folder"))?;
    let ok = ["1", "1", "identity", "", "in", "dest", "true", "false"];
    let with = |at: usize, value: &'static str| {
        let mut args = ok.to_vec();
        args[at] = value;
        args
    };
    let cases: Vec<(&str, Vec<&str>, i32, &str)> = vec![
        ("too few", ok[..6].to_vec(), 2, "example"),
        ("no stages", with(0, "0"), 2, "Nstages"),
        ("not a number", with(0, "two"), 2, "two"),
        ("no tasks", with(1, "0"), 2, "Ntasks"),
        ("unknown operator", with(2, "grpe"), 2, "grep"),
        ("not executable", with(2, "./not-executable"), 2, "chmod +x"),
        ("a folder", with(2, "./folder"), 2, "folder"),
        ("operator without its pattern", with(2, "grep"), 2, "grep"),
        ("an unclosed quote", with(3, "'x"), 2, "quot"),
        ("exactly_once", with(6, "yes"), 2, "true"),
        ("missing source", with(4, "nowhere"), 2, "nowhere"),
        (
            "unknown option",
            vec![
                "--colour", "1", "1", "identity", "", "in", "dest", "true", "false",
            ],
            2,
            "--colour",
        ),
    ];
    for (what, args, code, says) in cases {
        let out = cluster.leader(&args)?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(
            out.status.code() == Some(code),
            "{what}: exit code {:?}, expected {code}: {said}",
            out.status.code()
        );
        ensure!(said.contains(says), "{what}: does not say `{says}`: {said}");
        ensure!(
            out.stdout.is_empty() && !said.contains("panicked"),
            "{what}: {said}"
        );
    }
    // The destination exists.
    ensure!(cluster.leader(&ok)?.status.success());
    let again = cluster.leader(&ok)?;
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(
        again.status.code() == Some(2) && said.contains("--overwrite"),
        "{said}"
    );
    let over: Vec<&str> = ["--overwrite"].into_iter().chain(ok).collect();
    ensure!(cluster.leader(&over)?.status.success());
    cluster.check("dest", r#"awk '{ print "in/data.txt:" NR "\t" $0 }' data.txt"#)?;
    // No cluster, and one that is not there.
    let out = cluster
        .command("leader")
        .env("RAINSTORM_CLUSTER", "/nowhere/cluster.toml")
        .args(ok)
        .output()?;
    ensure!(out.status.code() == Some(2) || out.status.code() == Some(1));
    ensure!(String::from_utf8_lossy(&out.stderr).contains("/nowhere/cluster.toml"));
    ensure!(cluster.processes("worker")?.is_empty(), "a worker is left");
    Ok(())
}

#[test]
fn t23_an_operator_that_dies_fails_the_job_with_its_last_words() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let cluster = Cluster::up("127.0.38", 3)?;
    write_text(&cluster.path("data.txt"), 1000, 1)?;
    cluster.hydfs(&["create", "data.txt", "in/data.txt"])?;
    let script = cluster.path("dies.sh");
    std::fs::write(
        &script,
        "#!/bin/sh\nread key; read value\necho 'it hurts here' >&2\nexit 7\n",
    )?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let out = cluster.leader(&[
        "--max-restarts",
        "1",
        "1",
        "1",
        "filter:./dies.sh",
        "",
        "in",
        "out",
        "true",
        "false",
    ])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.code() == Some(1), "{said}");
    ensure!(
        said.contains("it hurts here") && said.contains("in/data.txt:"),
        "{said}"
    );
    ensure!(cluster.processes("worker")?.is_empty(), "a worker is left");
    Ok(())
}
