//! What becomes of files that are replaced, links, and lines through a pipe.

use super::*;

fn mode(path: &Path) -> Result<u32> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o7777)
}

#[test]
fn t257_a_file_that_is_replaced_keeps_its_mode() -> Result<()> {
    let cluster = Cluster::with_text("127.25.3", 3, 2_000)?;
    let (plain, got) = (cluster.path("plain"), cluster.path("got"));
    // What a new file gets here.
    std::fs::write(&plain, "")?;
    cluster.hydfs(&["get", "in/data.txt", "got"])?;
    ensure!(mode(&got)? == mode(&plain)?, "{:o}", mode(&got)?);
    let (summary, report) = (cluster.path("summary"), cluster.path("report"));
    for (n, bits) in [0o600, 0o640, 0o444].into_iter().enumerate() {
        for file in [&got, &summary, &report] {
            std::fs::write(file, "before")?;
            std::fs::set_permissions(file, Permissions::from_mode(bits))?;
        }
        cluster.hydfs(&["get", "in/data.txt", "got"])?;
        cluster.hydfs(&["getfromreplica", &coordinator(&cluster)?, "in/data.txt", "got"])?;
        let dest = format!("out/{n}");
        let mut args = vec!["--console", "none", "--summary", "summary", "--report", "report"];
        args.extend(["1", "1", "identity", "", "in", &dest, "true", "false"]);
        let out = cluster.leader(&args)?;
        ensure!(out.status.success(), "{}", text(&out));
        for file in [&got, &summary, &report] {
            ensure!(
                mode(file)? == bits,
                "{} has {:o}, had {bits:o}",
                file.display(),
                mode(file)?
            );
            ensure!(std::fs::read(file)? != b"before");
            // For the next round, where the owner may not write.
            std::fs::remove_file(file)?;
        }
    }
    // A link stays one, and leads to the new content.
    std::fs::write(&got, "before")?;
    symlink("got", cluster.path("link"))?;
    cluster.hydfs(&["get", "in/data.txt", "link"])?;
    ensure!(std::fs::symlink_metadata(cluster.path("link"))?.is_symlink());
    ensure!(std::fs::read(&got)? == std::fs::read(cluster.path("data.txt"))?);
    Ok(())
}

fn coordinator(cluster: &Cluster) -> Result<String> {
    let stat: serde_json::Value =
        serde_json::from_str(&cluster.hydfs(&["stat", "in/data.txt", "--json"])?)?;
    Ok(stat["coordinator"].as_str().context("a coordinator")?.to_owned())
}

#[test]
fn t258_links_in_a_folder_are_taken_or_named() -> Result<()> {
    let cluster = Cluster::up("127.25.4", 3)?;
    let at = |name: &str| cluster.path(name);
    std::fs::create_dir_all(at("tree/sub"))?;
    std::fs::write(at("tree/sub/file"), "a file\n")?;
    std::fs::write(at("outside"), "linked to\n")?;
    symlink(at("outside"), at("tree/linked"))?;
    let out = cluster
        .command("hydfs")
        .args(["create", "-r", "tree", "fine"])
        .output()?;
    ensure!(out.status.success(), "{}", text(&out));
    ensure!(cluster.hydfs(&["cat", "fine/linked"])? == "linked to\n");

    symlink(at("tree"), at("tree/sub/loop"))?;
    symlink("nowhere", at("tree/dangling"))?;
    let out = cluster
        .command("hydfs")
        .args(["create", "-r", "tree", "t"])
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.code() == Some(1), "{}", text(&out));
    for link in ["tree/sub/loop is left out", "tree/dangling is left out"] {
        ensure!(said.contains(link), "{said}");
    }
    ensure!(cluster.hydfs(&["find", "t/"])? == "t/linked\t10\nt/sub/file\t7\n");
    Ok(())
}

#[test]
fn t259_lines_through_a_pipe_are_there_within_a_second() -> Result<()> {
    let cluster = Cluster::up("127.25.5", 3)?;
    cluster.hydfs(&["create", "/dev/null", "f"])?;
    let (local, source) = (cluster.path("followed"), cluster.path("followed"));
    File::create(&local)?;
    let mut command = Command::new("tail");
    let mut tail = Running::start(
        command
            .args(["-n", "+1", "-F"])
            .arg(&source)
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
    )?;
    let lines = tail.0.stdout.take().context("piped")?;
    let mut command = cluster.command("hydfs");
    command
        .args(["append", "-", "f"])
        .stdin(lines)
        .stderr(Stdio::piped());
    let mut append = Running::start(&mut command)?;
    // The same client all the time, so that nothing but the append takes time.
    let mut command = cluster.command("hydfs");
    let mut reader = Running::start(
        command
            .args(["tail", "-f", "-n", "0", "f"])
            .stdout(Stdio::piped()),
    )?;
    let mut came = BufReader::new(reader.0.stdout.take().context("piped")?);
    let mut file = File::options().append(true).open(&local)?;
    // `tail` and both clients have begun when the first line is through.
    let (mut first, mut n) = (String::new(), 0);
    let (heard, done) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        let _ = came.read_line(&mut first);
        let _ = heard.send(());
        came
    });
    wait_for("a line to come through", LIMIT, || {
        n += 1;
        writeln!(file, "begin {n}")?;
        Ok(done.recv_timeout(Duration::from_millis(100)).ok())
    })?;
    let mut came = reading.join().ok().context("the reader's thread")?;
    let mut slowest = Duration::ZERO;
    for n in 0..5 {
        writeln!(file, "line {n}")?;
        let (written, mut line) = (now(), String::new());
        while line != format!("line {n}\n") {
            line.clear();
            ensure!(came.read_line(&mut line)? > 0, "the reader ended");
        }
        slowest = slowest.max(now() - written);
    }
    // `tail` looks once a second itself where it is not told.
    ensure!(slowest < Duration::from_secs(2), "a line took {slowest:?}");

    // Half a line waits for its end; Ctrl-C takes it along.
    write!(file, "whole\nhalf")?;
    let mut line = String::new();
    while line != "whole\n" {
        line.clear();
        ensure!(came.read_line(&mut line)? > 0, "the reader ended");
    }
    append.signal(Signal::SIGINT)?;
    let (status, said) = (append.end()?, append.said()?);
    ensure!(
        status.code() == Some(130) && said.contains("bytes were appended"),
        "{status}: {said}"
    );
    ensure!(cluster.hydfs(&["cat", "f"])?.into_bytes() == std::fs::read(&local)?);

    // The end of the input takes all along at once, whatever --linger says; and with a long one nothing goes before.
    let mut command = cluster.command("hydfs");
    command
        .args(["append", "--linger", "1h", "-", "f"])
        .stdin(Stdio::piped());
    let mut append = Running::start(&mut command)?;
    append.0.stdin.take().context("piped")?.write_all(b"\none\ntwo")?;
    ensure!(append.end()?.success());
    ensure!(cluster.hydfs(&["tail", "-n", "2", "f"])? == "one\ntwo");
    let out = cluster
        .command("hydfs")
        .args(["append", "--linger", "soon", "-", "f"])
        .output()?;
    ensure!(out.status.code() == Some(2), "{}", text(&out));
    Ok(())
}
