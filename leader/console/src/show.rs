//! Tables for people.

use api::wire::{JobRow, TaskRow};
use common::ids::JobName;
use serde::Serialize;

/// One job. Times are wall clock.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistoryRow {
    pub job: JobName,
    /// RFC 3339, to the second; `null`: it never began.
    pub started: Option<String>,
    /// From its plan to its end; else to now, or if it was interrupted, to the last that its journal says.
    pub seconds: f64,
    /// `done`, `failed`, `running`, `interrupted` (no leader has it, and it can be taken up), or `forgotten` (what it keeps is being removed).
    pub outcome: &'static str,
    /// Of a failed one.
    pub why: Option<String>,
    pub stages: Vec<String>,
    pub tasks: usize,
    /// Processes that were replaced.
    pub restarts: u64,
    /// How often another leader took it up.
    pub resumed: u64,
    /// Of tasks that are done.
    pub lines_in: u64,
    pub lines_out: u64,
    pub src: String,
    pub dest: String,
    /// Of one that has ended: what `--summary` has, as its last leader left it in HyDFS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<serde_json::Value>,
    #[serde(skip)]
    pub at_us: u64,
}

/// Columns as wide as their widest cell, two spaces between.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let head = line(head.to_vec());
    let body = rows
        .iter()
        .map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(head).chain(body).collect::<Vec<_>>().join("\n")
}

pub fn tasks(rows: &[TaskRow]) -> String {
    if rows.is_empty() {
        return "no job is running".into();
    }
    let head = [
        "JOB", "TASK", "NODE", "PID", "OPERATOR", "KIND", "EPOCH", "STATE", "IN/S", "LOG",
    ];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            vec![
                r.job.to_string(),
                r.task.to_string(),
                r.node.to_string(),
                r.pid.map_or("-".into(), |pid| pid.to_string()),
                r.op.clone(),
                r.kind.to_string(),
                r.epoch.to_string(),
                r.state.clone(),
                format!("{:.0}", r.in_per_s),
                r.log.clone(),
            ]
        })
        .collect();
    table(&head, &rows)
}

pub fn jobs(rows: &[JobRow]) -> String {
    if rows.is_empty() {
        return "no job is running".into();
    }
    let head = [
        "JOB",
        "LEADER",
        "PID",
        "SECONDS",
        "READ",
        "RESTARTS",
        "DESTINATION",
        "PAGE",
    ];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            vec![
                r.job.to_string(),
                r.node.to_string(),
                r.pid.to_string(),
                format!("{:.0}", r.seconds),
                read(r),
                r.restarts.to_string(),
                r.dest.clone(),
                r.http
                    .as_ref()
                    .map_or("-".into(), |addr| format!("http://{addr}/")),
            ]
        })
        .collect();
    table(&head, &rows)
}

pub fn history(rows: &[HistoryRow]) -> String {
    if rows.is_empty() {
        return "no job has a journal".into();
    }
    let head = [
        "JOB",
        "STARTED",
        "SECONDS",
        "OUTCOME",
        "TASKS",
        "RESTARTS",
        "READ",
        "OUT",
        "DESTINATION",
        "STAGES",
    ];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            vec![
                r.job.to_string(),
                r.started.clone().unwrap_or("-".into()),
                format!("{:.1}", r.seconds),
                match &r.why {
                    Some(why) => format!("{}: {}", r.outcome, shorten(why)),
                    None => r.outcome.into(),
                },
                r.tasks.to_string(),
                r.restarts.to_string(),
                r.lines_in.to_string(),
                r.lines_out.to_string(),
                r.dest.clone(),
                r.stages.join(" -> "),
            ]
        })
        .collect();
    table(&head, &rows)
}

/// So much of a reason as fits beside the rest; `--json` has all of it.
fn shorten(why: &str) -> String {
    const MOST: usize = 48;
    match why.chars().count() > MOST {
        true => why.chars().take(MOST - 1).chain(['…']).collect(),
        false => why.into(),
    }
}

fn read(r: &JobRow) -> String {
    if r.input_bytes == 0 {
        "-".into()
    } else {
        format!("{:.0}%", 100.0 * r.read_bytes as f64 / r.input_bytes as f64)
    }
}

pub fn status(rows: &[JobRow]) -> String {
    if rows.is_empty() {
        return "no job is running".into();
    }
    let head = [
        "STAGE", "OPERATOR", "KIND", "UP", "DONE", "TASKS", "IN/S", "OUT/S", "IN", "OUT", "BACKLOG",
        "RESTARTS",
    ];
    let one = |r: &JobRow| {
        let stages: Vec<Vec<String>> = r
            .stages
            .iter()
            .map(|s| {
                vec![
                    s.stage.to_string(),
                    s.op.clone(),
                    s.kind.to_string(),
                    s.up.to_string(),
                    s.done.to_string(),
                    s.tasks.to_string(),
                    format!("{:.0}", s.in_per_s),
                    format!("{:.0}", s.out_per_s),
                    s.tuples_in.to_string(),
                    s.tuples_out.to_string(),
                    s.backlog_bytes.to_string(),
                    s.restarts.to_string(),
                ]
            })
            .collect();
        format!(
            "job {} (leader on {}, process {}): {:.0} s, {} read, exactly_once={}, to {}\n{}",
            r.job,
            r.node,
            r.pid,
            r.seconds,
            read(r),
            r.exactly_once,
            r.dest,
            table(&head, &stages)
        )
    };
    rows.iter().map(one).collect::<Vec<_>>().join("\n\n")
}

pub fn members(rows: &[memberd::Member]) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|m| {
            vec![
                m.name.to_string(),
                m.state.to_string(),
                m.addr.to_string(),
                m.incarnation.to_string(),
            ]
        })
        .collect();
    table(&["NODE", "STATE", "ADDRESS", "INCARNATION"], &cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["a".into(), "long one".into()],
            vec!["bbbb".into(), "c".into()],
        ];
        assert_eq!(table(&["X", "Y"], &rows), "X     Y\na     long one\nbbbb  c");
    }
}
