//! `verify JOB`: fetches what the log checker wants, and says what it found. See [`::verify`].

use common::ids::JobName;
use hydfs::client::Client;

use crate::files;
use crate::outcome::{Done, Error, UNCHECKED};
use ::verify::{Checker, JobFacts, Outcome, TaskFiles, Verdict, thousands};

const REFUTED: u8 = 1;

pub async fn run(client: &Client, job: &JobName) -> Result<Done, Error> {
    let no_plan = || Error::NoPlan { job: job.to_string() };
    let facts = JobFacts::of(&files::journal(client, job).await?).ok_or_else(no_plan)?;
    let plan = facts.plan.clone();
    if !plan.exactly_once {
        let complaint =
            format!("job {job} ran with exactly_once=false: it kept no logs, there is nothing to verify");
        return Ok(Done {
            text: String::new(),
            code: UNCHECKED,
            complaint: Some(complaint),
        });
    }
    let mut checker = Checker::new(facts);
    // Stage by stage, each log before those downstream of it and before its own snapshot file: see `::verify`.
    for task in plan.tasks() {
        let log = files::log(job, task);
        let Some(content) = files::read(client, &log).await? else {
            continue;
        };
        let streams = files::streams(client, &log).await?.unwrap_or_default();
        let snapshots = files::streams(client, &files::snapshots(job, task)).await?;
        checker.task(
            task,
            TaskFiles {
                log: &content.bytes,
                log_begin: content.begin,
                log_streams: &streams,
                snapshots: snapshots.as_ref(),
            },
        );
    }
    let dest = files::streams(client, &plan.dest).await?;
    let poison = match checker.poison() {
        Some(file) => files::streams(client, file).await?,
        None => None,
    };
    let after = JobFacts::of(&files::journal(client, job).await?).ok_or_else(no_plan)?;
    Ok(report(
        job,
        &checker.finish(&after, dest.as_ref(), poison.as_ref()),
    ))
}

fn report(job: &JobName, verdict: &Verdict) -> Done {
    let stands = match &verdict.outcome {
        Outcome::Ended => String::new(),
        Outcome::Open => "has not ended, checked as far as it is: ".into(),
        Outcome::Failed(why) => format!("failed ({why}), checked as far as it came: "),
    };
    let (word, code) = match (verdict.findings.len(), verdict.unchecked.len()) {
        (0, 0) if verdict.totals.tasks == 0 => {
            ("not proved, no task has written a log yet".to_owned(), UNCHECKED)
        }
        (0, 0) => ("proved".into(), 0),
        (0, 1) => ("not proved, 1 thing could not be checked".into(), UNCHECKED),
        (0, n) => (format!("not proved, {n} things could not be checked"), UNCHECKED),
        (1, _) => ("refuted, 1 finding".into(), REFUTED),
        (n, _) => (format!("refuted, {n} findings"), REFUTED),
    };
    let mut lines: Vec<String> = verdict.findings.iter().map(|f| f.to_string()).collect();
    lines.extend(
        verdict
            .unchecked
            .iter()
            .map(|what| format!("not checked: {what}")),
    );
    lines.push(format!("job {job}: {stands}{word}: {}", totals(verdict)));
    Done {
        text: lines.join("\n"),
        code,
        complaint: None,
    }
}

fn totals(verdict: &Verdict) -> String {
    let t = &verdict.totals;
    let count = |n: u64, what: &str| {
        let s = if n == 1 { "" } else { "s" };
        format!("{} {what}{s}", thousands(n))
    };
    let others = match t.others {
        0 => String::new(),
        n => format!(" and {n} of others"),
    };
    let from = match t.trimmed {
        0 => String::new(),
        n => format!(
            " (and {} that {} held before {} trimmed)",
            thousands(t.trimmed_orders),
            count(n as u64, "log"),
            if n == 1 { "it was" } else { "they were" }
        ),
    };
    format!(
        "{}, {}{from}, {}, {} ({}), {}; destination {} = {}{others}",
        count(t.tasks as u64, "task"),
        count(t.orders, "order record"),
        count(t.checkpoints, "checkpoint"),
        count(t.epochs, "epoch"),
        count(t.restarts, "restart"),
        count(t.lines, "line"),
        count(t.dest_bytes, "byte"),
        count(t.streams as u64, "stream"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::verify::{Finding, Totals};
    use common::ids::TaskId;

    #[test]
    fn a_verdict_is_a_line_and_a_code() {
        let job = JobName::new("x").unwrap();
        let totals = Totals {
            tasks: 9,
            orders: 1234,
            checkpoints: 50,
            epochs: 10,
            restarts: 1,
            lines: 1_000_000,
            log_bytes: 1,
            trimmed: 0,
            trimmed_orders: 0,
            dest_bytes: 4567,
            streams: 3,
            others: 0,
        };
        let mut verdict = Verdict {
            outcome: Outcome::Ended,
            findings: vec![],
            unchecked: vec![],
            totals,
        };
        let done = report(&job, &verdict);
        let says = "9 tasks, 1,234 order records, 50 checkpoints, 10 epochs (1 restart), 1,000,000 lines; destination 4,567 bytes = 3 streams";
        assert_eq!((done.code, done.text), (0, format!("job x: proved: {says}")));
        (verdict.totals.trimmed, verdict.totals.trimmed_orders) = (2, 5000);
        let says =
            "1,234 order records (and 5,000 that 2 logs held before they were trimmed), 50 checkpoints";
        assert!(report(&job, &verdict).text.contains(says));
        verdict.outcome = Outcome::Open;
        verdict.totals.tasks = 0;
        assert_eq!(report(&job, &verdict).code, UNCHECKED);
        verdict.unchecked.push("its log is not there".into());
        let done = report(&job, &verdict);
        assert_eq!(done.code, UNCHECKED);
        assert!(
            done.text
                .starts_with("not checked: its log is not there\njob x: has not ended")
        );
        verdict.findings.push(Finding {
            task: Some(TaskId::new(1, 2)),
            byte: Some(3),
            pos: Some(4),
            what: "boo".into(),
        });
        let done = report(&job, &verdict);
        assert_eq!(done.code, REFUTED);
        assert!(done.text.starts_with("s1t2 byte=3 pos=4: boo\n"), "{}", done.text);
    }
}
