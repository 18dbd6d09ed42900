//! The console and the leader's page, through the real programs. The page itself is looked at by people; what it is fed with
//! is checked here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use system_tests::job::held;
use system_tests::{Cluster, Job, PATIENCE, wait_for};

const LINES: u64 = 200_000;

fn start<'a>(cluster: &'a Cluster, name: &str, more: &[&str], rate: &str) -> Result<Job<'a>> {
    let dest = format!("out/{name}");
    let mut args = more.to_vec();
    args.extend(["2", "2", "grep", "--key word:0 static", "count", ""]);
    args.extend(["in", &dest, "true", "false", rate]);
    cluster.start(name, &args)
}

/// HTTP/1.0, so that bodies come as they are.
fn open(addr: &str, path: &str, host: &str) -> Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    Ok(BufReader::new(stream))
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

fn head(from: &mut impl BufRead) -> Result<(u16, String)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(
            from.read_line(&mut head)? > 0,
            "the answer ends in its head: {head}"
        );
    }
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, head.to_lowercase()))
}

fn get(addr: &str, path: &str) -> Result<Answer> {
    let mut from = open(addr, path, addr)?;
    let (status, head) = head(&mut from)?;
    let mut body = String::new();
    from.read_to_string(&mut body)?;
    Ok(Answer { status, head, body })
}

fn json(addr: &str, path: &str) -> Result<Value> {
    let answer = get(addr, path)?;
    ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
    ensure!(
        answer.head.contains("content-type: application/json"),
        "{}",
        answer.head
    );
    Ok(serde_json::from_str(&answer.body)?)
}

/// One sample of Prometheus' text format.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// A strict reader of the text format 0.0.4: each family has one HELP and one TYPE before its samples, which stand together;
/// counters end in `_total`; no sample is there twice.
fn samples(text: &str) -> Result<Vec<Sample>> {
    let (mut all, mut families, mut seen) = (vec![], BTreeMap::new(), BTreeSet::new());
    let (mut helped, mut family) = (None, String::new());
    ensure!(text.ends_with('\n'), "the last line has no end");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').context(line.to_owned())?;
            ensure!(
                !help.is_empty() && helped.replace(name.to_owned()).is_none(),
                "{line}"
            );
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').context(line.to_owned())?;
            ensure!(helped.take().as_deref() == Some(name), "no HELP before: {line}");
            ensure!(
                families.insert(name.to_owned(), kind.to_owned()).is_none(),
                "twice: {line}"
            );
            ensure!((kind == "counter") == name.ends_with("_total"), "{line}");
            ensure!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            family = name.to_owned();
        } else {
            let sample = sample(line)?;
            let histogram = families.get(&family).is_some_and(|kind| kind == "histogram");
            let of_family = match sample.name.strip_prefix(family.as_str()) {
                Some("") => !histogram,
                Some("_bucket" | "_sum" | "_count") => histogram,
                _ => false,
            };
            ensure!(of_family, "a sample of another family than {family}: {line}");
            ensure!(
                seen.insert((sample.name.clone(), sample.labels.clone())),
                "twice: {line}"
            );
            all.push(sample);
        }
    }
    Ok(all)
}

fn sample(line: &str) -> Result<Sample> {
    let name_end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    let (name, mut rest) = line.split_at(name_end.context(line.to_owned())?);
    let mut labels = BTreeMap::new();
    if let Some(more) = rest.strip_prefix('{') {
        rest = more;
        loop {
            let (label, more) = rest.split_once("=\"").context(line.to_owned())?;
            ensure!(
                !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'),
                "{line}"
            );
            let (mut text, mut chars) = (String::new(), more.char_indices());
            let end = loop {
                match chars.next().context(line.to_owned())? {
                    (at, '"') => break at,
                    (_, '\\') => match chars.next().context(line.to_owned())?.1 {
                        'n' => text.push('\n'),
                        c @ ('\\' | '"') => text.push(c),
                        c => bail!("\\{c} in {line}"),
                    },
                    (_, c) => text.push(c),
                }
            };
            ensure!(labels.insert(label.to_owned(), text).is_none(), "{line}");
            rest = &more[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').context(line.to_owned())?;
    }
    let value = rest.strip_prefix(' ').context(line.to_owned())?.parse()?;
    Ok(Sample {
        name: name.into(),
        labels,
        value,
    })
}

fn check_metrics(text: &str, job: &str) -> Result<()> {
    let samples = samples(text)?;
    let of = |name: &str| samples.iter().filter(|s| s.name == name).collect::<Vec<_>>();
    ensure!(
        samples
            .iter()
            .all(|s| s.labels.get("job").is_some_and(|j| j == job))
    );
    let read = of("rainstorm_task_tuples_in_total");
    let tasks: BTreeSet<&str> = read
        .iter()
        .filter_map(|s| s.labels.get("task"))
        .map(String::as_str)
        .collect();
    ensure!(tasks.len() == 6, "{tasks:?}");
    ensure!(
        read.iter()
            .all(|s| s.labels["task"].starts_with(&format!("s{}t", s.labels["stage"])))
    );
    let lines: f64 = read
        .iter()
        .filter(|s| s.labels["stage"] == "0")
        .map(|s| s.value)
        .sum();
    ensure!(lines > 0.0 && lines <= LINES as f64, "{lines} lines read");
    let rate: f64 = of("rainstorm_task_in_tuples_per_second")
        .iter()
        .map(|s| s.value)
        .sum();
    ensure!(rate > 0.0, "a job at work has rates");
    ensure!(
        of("rainstorm_task_restarts_total")
            .iter()
            .map(|s| s.value)
            .sum::<f64>()
            == 1.0
    );
    let states = of("rainstorm_job_state");
    let is: Vec<&str> = states
        .iter()
        .filter(|s| s.value == 1.0)
        .map(|s| s.labels["state"].as_str())
        .collect();
    ensure!(is == ["running"], "{is:?}");
    // A histogram's buckets only grow, up to its count.
    let buckets: Vec<f64> = of("rainstorm_output_latency_seconds_bucket")
        .iter()
        .map(|s| s.value)
        .collect();
    let count = of("rainstorm_output_latency_seconds_count")[0].value;
    ensure!(
        buckets.is_sorted() && buckets.last() == Some(&count) && count > 0.0,
        "{buckets:?} {count}"
    );
    let op = of("rainstorm_stage_info");
    ensure!(op[1].labels["operator"] == "grep --key word:0 static", "{op:?}");
    Ok(())
}

/// Reads a stream of server-sent events until one of that name suits.
fn until(from: &mut impl BufRead, name: &str, mut suits: impl FnMut(&Value) -> bool) -> Result<Value> {
    let deadline = system_tests::now() + PATIENCE;
    let mut event = String::new();
    loop {
        ensure!(system_tests::now() < deadline, "no event `{name}` that suits");
        let mut line = String::new();
        ensure!(from.read_line(&mut line)? > 0, "the stream ended before `{name}`");
        if let Some(word) = line.trim_end().strip_prefix("event: ") {
            event = word.to_owned();
        } else if let Some(data) = line.trim_end().strip_prefix("data: ")
            && event == name
        {
            let value: Value = serde_json::from_str(data)?;
            if suits(&value) {
                return Ok(value);
            }
        }
    }
}

fn page_of(cluster: &Cluster, job: &str) -> Result<String> {
    wait_for("the job's page", PATIENCE, || {
        let out = cluster
            .command("rainstormctl")
            .args(["jobs", "--json"])
            .output()?;
        let jobs: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        let jobs = jobs.as_array().cloned().unwrap_or_default();
        let row = jobs.iter().find(|row| row["job"] == job);
        Ok(row.and_then(|row| row["http"].as_str()).map(str::to_owned))
    })
}

#[test]
fn t161_the_page_tells_of_a_kill_and_of_the_end_and_is_kept() -> Result<()> {
    let cluster = Cluster::with_text("127.0.126", 3, LINES)?;
    let report = cluster.path("run.html");
    let report_text = report.to_str().context("a path in UTF-8")?;
    let mut job = start(&cluster, "shown", &["--report", report_text], &held(LINES))?;
    let addr = page_of(&cluster, "shown")?;
    ensure!(addr == "127.0.126.11:15080", "{addr}");
    job.wait_for_output()?;

    let mut stream = open(&addr, "/api/stream", &addr)?;
    let (status, head) = head(&mut stream)?;
    ensure!(
        status == 200 && head.contains("content-type: text/event-stream"),
        "{head}"
    );
    let all = until(&mut stream, "all", |_| true)?;
    ensure!(
        all["now"]["tasks"].as_array().is_some_and(|t| t.len() == 6),
        "{all}"
    );
    let killed = job.kill_task("s1t0")?;
    let fail = until(&mut stream, "event", |e| e["event"] == "TASK_FAIL")?;
    ensure!(
        fail["fields"]["task"] == "s1t0" && fail["fields"]["node"] == killed.node.as_str(),
        "{fail}"
    );
    until(&mut stream, "event", |e| {
        e["event"] == "TASK_START" && e["fields"]["task"] == "s1t0"
    })?;
    let now = until(&mut stream, "now", |now| {
        let tasks = now["tasks"].as_array().cloned().unwrap_or_default();
        tasks.iter().any(|t| {
            t["task"] == "s1t0"
                && t["epoch"] == 2
                && t["state"] == "running"
                && t["in_per_s"].as_f64() > Some(0.0)
        })
    })?;
    ensure!(now["job"]["restarts"] == 1, "{now}");

    // The same over the rest of the API.
    let tasks = json(&addr, "/api/tasks")?;
    for name in [
        "job", "task", "stage", "node", "pid", "op", "kind", "epoch", "state", "log", "in_per_s", "restarts",
    ] {
        ensure!(tasks[0].get(name).is_some(), "no {name} in {}", tasks[0]);
    }
    let rates = json(&addr, "/api/rates")?;
    ensure!(
        rates.as_array().is_some_and(|r| r.len() == 3) && rates[1]["in_per_s"].as_f64() > Some(0.0),
        "{rates}"
    );
    ensure!(json(&addr, "/api/job")?["state"] == "running");
    let events = json(&addr, "/api/events")?;
    let newest = events.as_array().and_then(|e| e.last()).context("events")?["id"].as_u64();
    let newest = newest.context("an id")?;
    let later = json(&addr, &format!("/api/events?since={}", newest - 1))?;
    ensure!(later[0]["id"].as_u64() == Some(newest), "{later}");
    // A point comes every half second, and a restarted task's rate may be there before the third.
    let (history, points) = wait_for("three points of history", PATIENCE, || {
        let history = json(&addr, "/api/history")?;
        let points = history["at"].as_array().map_or(0, Vec::len);
        Ok((points > 2).then_some((history, points)))
    })?;
    ensure!(
        history["tasks"]["s1t0"]
            .as_array()
            .is_some_and(|s| s.len() == points),
        "{history}"
    );
    let metrics = get(&addr, "/metrics")?;
    ensure!(
        metrics.head.contains("text/plain; version=0.0.4"),
        "{}",
        metrics.head
    );
    check_metrics(&metrics.body, "shown").with_context(|| metrics.body.clone())?;
    let page = get(&addr, "/")?;
    ensure!(
        page.head.contains("text/html") && page.head.contains("default-src 'none'"),
        "{}",
        page.head
    );
    for elsewhere in ["src=", "href=\"http", "@import", "url("] {
        ensure!(!page.body.contains(elsewhere), "the page wants {elsewhere}");
    }
    // A page from elsewhere that was given this address for its name.
    let (status, _) = self::head(&mut open(&addr, "/api/job", "evil.example")?)?;
    ensure!(status == 421, "{status}");
    ensure!(get(&addr, "/nowhere")?.status == 404);

    job.release()?;
    let end = until(&mut stream, "now", |now| now["job"]["state"] == "done")?;
    ensure!(end["job"]["stages"][0]["tuples_in"] == LINES, "{}", end["job"]);
    let summary = job.finish(PATIENCE)?;
    ensure!(summary["restarts"] == 1, "{summary}");
    let kept = std::fs::read_to_string(&report)?;
    let data = kept
        .split("const RUN = ")
        .nth(1)
        .and_then(|t| t.split(";\n").next())
        .context("the data")?;
    let data: Value = serde_json::from_str(data)?;
    ensure!(
        data["now"]["job"]["state"] == "done"
            && data["history"]["at"].as_array().is_some_and(|a| a.len() > 2)
    );
    let words: Vec<&str> = data["events"]
        .as_array()
        .context("events")?
        .iter()
        .filter_map(|e| e["event"].as_str())
        .collect();
    for word in [
        "RUN_START",
        "HTTP",
        "TASK_START",
        "TASK_FAIL",
        "TASK_RESTART",
        "TASK_END",
        "RUN_END",
    ] {
        ensure!(words.contains(&word), "no {word} in {words:?}");
    }
    cluster.check(
        "out/shown",
        r#"awk '/static/ { print $1 "\t" ++n[$1] }' data.txt"#,
    )
}

fn ctl(cluster: &Cluster, args: &[&str]) -> Result<(Option<i32>, String, String)> {
    let Output {
        status,
        stdout,
        stderr,
    } = cluster.command("rainstormctl").args(args).output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok((status.code(), text(&stdout), text(&stderr)))
}

fn typed(cluster: &Cluster, lines: &str) -> Result<(Option<i32>, String, String)> {
    let mut child = cluster
        .command("rainstormctl")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("piped")?.write_all(lines.as_bytes())?;
    let out = child.wait_with_output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok((out.status.code(), text(&out.stdout), text(&out.stderr)))
}

#[test]
fn t162_words_from_standard_input_and_grep_over_all_machines() -> Result<()> {
    let cluster = Cluster::with_text("127.0.127", 3, 5_000)?;
    start(&cluster, "first", &[], "0")?.finish(PATIENCE)?;
    let evil = r#"it's "$(touch evil)" `touch evil` \ * [x] é"#;
    for n in 1..=3 {
        let text = format!("before\n{evil}\nafter NEEDLE {n}\n").repeat(n);
        std::fs::write(cluster.path(&format!("run/n{n}/log/made.log")), text)?;
    }

    let (code, out, err) = typed(
        &cluster,
        "# a comment\n\nstat in/data.txt\nhistory --json\nlist_mem --node n2\n",
    )?;
    ensure!(code == Some(0), "{out}{err}");
    ensure!(
        out.contains("5000 newlines")
            && out.contains("\"outcome\": \"done\"")
            && out.contains("127.0.127.13"),
        "{out}"
    );
    // The last that failed decides; the rest is done all the same.
    let (code, out, err) = typed(&cluster, "nonsense\nlog first s9t9\nlist_mem_ids\n")?;
    ensure!(
        code == Some(1) && out.contains("n3") && err.contains("nonsense") && err.contains("s9t9"),
        "{out}{err}"
    );
    ensure!(typed(&cluster, "log first s9t9\n'")?.0 == Some(2));
    ensure!(typed(&cluster, "exit\nnonsense\n")?.0 == Some(0));

    let (code, out, err) = ctl(&cluster, &["grep", "-F", "--", evil])?;
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort();
    let want: Vec<String> = (1..=3)
        .flat_map(|n| vec![format!("n{n}:made.log:{evil}"); n])
        .collect();
    ensure!(code == Some(0) && lines == want, "{out}{err}");
    ensure!(
        err.contains("n3: 3 matches") && err.contains("6 matches on 3 machines"),
        "{err}"
    );
    let found: Vec<String> = cluster.log_lines("evil")?;
    ensure!(
        found.is_empty() && !cluster.path("run/n1/log/evil").exists(),
        "the pattern was run"
    );
    ensure!(ctl(&cluster, &["grep", "-ic", "needle"])?.1 == "n1:1\nn2:2\nn3:3\n");
    ensure!(
        ctl(&cluster, &["grep", "-h", "-E", "NEEDLE (1|3)$"])?
            .1
            .lines()
            .count()
            == 4
    );
    ensure!(ctl(&cluster, &["grep", "-cv", "-w", "-e", "before", "--"])?.0 == Some(0));
    let (code, out, _) = ctl(&cluster, &["grep", "no such words anywhere"])?;
    ensure!(code == Some(1) && out.is_empty());
    ensure!(ctl(&cluster, &["grep", "-q", "NEEDLE"])?.0 == Some(0));
    ensure!(ctl(&cluster, &["grep"])?.0 == Some(2) && ctl(&cluster, &["grep", "-E", "("])?.0 == Some(2));

    cluster.script(&["kill-node", "n2"])?;
    let (code, out, err) = ctl(&cluster, &["grep", "NEEDLE"])?;
    ensure!(code == Some(2) && out.lines().count() == 4, "{out}{err}");
    ensure!(err.lines().any(|l| l.starts_with("n2: did not answer")), "{err}");
    ensure!(err.contains("4 matches on 2 of 3 machines"), "{err}");
    Ok(())
}
