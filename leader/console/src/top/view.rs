//! What `top` shows, as lines. Pure: what a console said goes in.

use common::shown;
use common::size::short;
use serde_json::Value;

/// As the paths of the same names say it.
pub struct Seen {
    pub cluster: Value,
    pub jobs: Value,
    pub events: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Head,
    Dim,
    Good,
    Warn,
    Bad,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewLine {
    pub kind: Kind,
    pub text: String,
}

impl ViewLine {
    pub fn new(kind: Kind, text: String) -> Self {
        Self { kind, text }
    }
}

/// The most lines of a screen that nodes may take, and jobs; the rest is for events.
const NODES: usize = 6;
const RUNNING: usize = 3;
const WERE: usize = 2;
/// Screens from so many lines on have room for all of it.
const HIGH: usize = 40;

/// At most `height` lines of at most `width` characters, with `events` events at most.
pub fn lines(seen: &Seen, width: usize, height: usize, events: usize) -> Vec<ViewLine> {
    let (nodes, running, were) = match height >= HIGH {
        true => (usize::MAX, usize::MAX, 10),
        false => (NODES, RUNNING, WERE),
    };
    let mut out = vec![title(&seen.cluster)];
    out.extend(section(node_rows(&seen.cluster), nodes, "nodes"));
    out.push(blank());
    let jobs = running_rows(&seen.jobs);
    match jobs.len() {
        1 => out.push(ViewLine::new(Kind::Dim, "no job is running".into())),
        _ => out.extend(section(jobs, running, "jobs")),
    }
    let past = were_rows(&seen.jobs);
    if past.len() > 1 {
        out.push(blank());
        out.extend(section(past, were, ""));
    }
    out.push(blank());
    let room = height.saturating_sub(out.len()).min(events);
    out.extend(event_rows(&seen.events, room));
    out.truncate(height);
    for line in &mut out {
        line.text = cut(&shown::line(&line.text), width);
    }
    out
}

fn blank() -> ViewLine {
    ViewLine::new(Kind::Plain, String::new())
}

fn cut(text: &str, width: usize) -> String {
    match text.chars().count() > width {
        true => text
            .chars()
            .take(width.saturating_sub(1))
            .chain(['…'])
            .take(width)
            .collect(),
        false => text.into(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The whole cluster in a few words.
fn health(cluster: &Value) -> (Kind, String) {
    let (nodes, totals) = (list(&cluster["nodes"]), &cluster["totals"]);
    let away = nodes
        .iter()
        .filter(|n| !n["error"].is_null() || n["member"] == "failed")
        .count();
    let unavailable = number(&totals["unavailable_ranges"]);
    let missing = number(&totals["missing_segments"]);
    let level = |level: &str| nodes.iter().filter(|n| n["disk"]["level"] == level).count();
    match () {
        () if unavailable > 0 => (Kind::Bad, format!("{unavailable} of the ranges unavailable")),
        () if away > 0 => (Kind::Bad, format!("{away} of {} nodes away", nodes.len())),
        () if missing > 0 || number(&totals["under_replicated_ranges"]) > 0 => (
            Kind::Warn,
            format!("under-replicated: {missing} segments to be repaired"),
        ),
        () if level("short") > 0 => (Kind::Bad, format!("disks with little room: {}", level("short"))),
        () if level("fills") > 0 => (Kind::Warn, format!("disks that fill: {}", level("fills"))),
        () => (Kind::Good, "all is well".into()),
    }
}

fn title(cluster: &Value) -> ViewLine {
    let (kind, health) = health(cluster);
    ViewLine::new(
        kind,
        format!(
            "RainStorm, as {} sees it: {health}    (q ends)",
            text(&cluster["node"])
        ),
    )
}

type Row = (Kind, Vec<String>);

/// Columns as wide as their widest cell; the first row is the head. What there is no room for is counted.
fn section(rows: Vec<Row>, most: usize, what: &str) -> Vec<ViewLine> {
    let widths: Vec<usize> = (0..rows.first().map_or(0, |(_, cells)| cells.len()))
        .map(|i| {
            rows.iter()
                .map(|(_, cells)| cells[i].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |cells: &[String]| {
        let cells = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let left = rows.len().saturating_sub(1).saturating_sub(most);
    let shown = rows.iter().take(most.saturating_add(1));
    let mut out: Vec<ViewLine> = shown
        .map(|(kind, cells)| ViewLine::new(*kind, line(cells)))
        .collect();
    if left > 0 && !what.is_empty() {
        out.push(ViewLine::new(Kind::Dim, format!("... and {left} more {what}")));
    }
    out
}

fn head(cells: &[&str]) -> Row {
    (Kind::Head, cells.iter().map(|c| (*c).to_owned()).collect())
}

/// Those that something is wrong with come first.
fn node_rows(cluster: &Value) -> Vec<Row> {
    let mut rows: Vec<Row> = list(&cluster["nodes"])
        .iter()
        .map(|node| {
            let (stored, work) = (&node["stored"], &node["work"]);
            let jobs: u64 = ["logs", "snapshots", "journals", "operators"]
                .iter()
                .map(|k| number(&stored[*k]))
                .sum();
            let kind = match (node["member"].as_str(), node["disk"]["level"].as_str()) {
                _ if !node["error"].is_null() => Kind::Bad,
                (Some("failed"), _) | (_, Some("short")) => Kind::Bad,
                (Some("suspect"), _) | (_, Some("fills")) => Kind::Warn,
                _ if number(&work["missing_segments"]) > 0 => Kind::Warn,
                _ => Kind::Plain,
            };
            let figures = match node["error"].is_null() {
                true => vec![
                    format!("{}%", number(&node["percent"])),
                    short(number(&node["disk"]["free"])),
                    number(&stored["files"]).to_string(),
                    short(number(&stored["users"])),
                    short(jobs),
                    number(&work["missing_segments"]).to_string(),
                    short(number(&work["resident_bytes"])),
                ],
                false => vec![
                    "no storage".into(),
                    "-".into(),
                    "-".into(),
                    "-".into(),
                    "-".into(),
                    "-".into(),
                    "-".into(),
                ],
            };
            let names = [text(&node["node"]).to_owned(), text(&node["member"]).to_owned()];
            (kind, names.into_iter().chain(figures).collect())
        })
        .collect();
    let rank = |kind: Kind| match kind {
        Kind::Bad => 0,
        Kind::Warn => 1,
        _ => 2,
    };
    rows.sort_by_key(|(kind, _)| rank(*kind));
    rows.insert(
        0,
        head(&[
            "NODE", "MEMBER", "DISK", "FREE", "FILES", "USERS", "JOBS", "REPAIR", "MEMORY",
        ]),
    );
    rows
}

fn running_rows(jobs: &Value) -> Vec<Row> {
    let mut rows = vec![head(&[
        "JOB",
        "LEADER",
        "SECONDS",
        "IN/S",
        "OUT/S",
        "RESTARTS",
        "DESTINATION",
    ])];
    rows.extend(list(&jobs["running"]).iter().map(|job| {
        let stages = list(&job["stages"]);
        let rate = |stage: Option<&Value>, of: &str| {
            format!("{:.0}", stage.and_then(|s| s[of].as_f64()).unwrap_or(0.0))
        };
        let cells = vec![
            text(&job["job"]).to_owned(),
            text(&job["node"]).to_owned(),
            format!("{:.0}", job["seconds"].as_f64().unwrap_or(0.0)),
            rate(stages.first(), "in_per_s"),
            rate(stages.last(), "out_per_s"),
            number(&job["restarts"]).to_string(),
            text(&job["dest"]).to_owned(),
        ];
        (Kind::Plain, cells)
    }));
    rows
}

fn were_rows(jobs: &Value) -> Vec<Row> {
    let mut rows = vec![head(&[
        "JOB",
        "STARTED",
        "SECONDS",
        "OUTCOME",
        "RESTARTS",
        "DESTINATION",
    ])];
    rows.extend(list(&jobs["were"]).iter().map(|job| {
        let kind = match job["outcome"].as_str() {
            Some("failed") => Kind::Bad,
            Some("interrupted") => Kind::Warn,
            _ => Kind::Plain,
        };
        let cells = vec![
            text(&job["job"]).to_owned(),
            text(&job["started"]).to_owned(),
            format!("{:.1}", job["seconds"].as_f64().unwrap_or(0.0)),
            text(&job["outcome"]).to_owned(),
            number(&job["restarts"]).to_string(),
            text(&job["dest"]).to_owned(),
        ];
        (kind, cells)
    }));
    rows
}

/// The newest first.
fn event_rows(events: &Value, most: usize) -> Vec<ViewLine> {
    let silent = list(&events["silent"]).iter().map(|s| {
        ViewLine::new(
            Kind::Warn,
            format!(
                "{}: its events cannot be had: {}",
                text(&s["node"]),
                text(&s["error"])
            ),
        )
    });
    let told = list(&events["events"]).iter().rev().map(|event| {
        let kind = match event["level"].as_str() {
            Some("ERROR") => Kind::Bad,
            Some("WARN") => Kind::Warn,
            _ => Kind::Plain,
        };
        let time = text(&event["at"]).get(11..19).unwrap_or("-");
        let (node, word, rest) = (text(&event["node"]), text(&event["event"]), text(&event["text"]));
        ViewLine::new(kind, format!("{time} {node} {word} {rest}"))
    });
    silent.chain(told).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn seen(nodes: usize, jobs: usize, events: usize) -> Seen {
        let node = |n: usize| {
            json!({
                "node": format!("n{n}"), "member": "alive", "percent": 12,
                "disk": {"free": 1_500_000_000u64, "level": "roomy"},
                "stored": {"files": 3, "users": 1000, "logs": 2000}, "work": {"missing_segments": 0},
            })
        };
        let running = |n: usize| json!({"job": format!("j{n}"), "node": "n1", "stages": [{"in_per_s": 7.0, "out_per_s": 3.0}], "dest": "out"});
        let was = |n: usize| json!({"job": format!("w{n}"), "outcome": "done", "dest": "out"});
        let event = |n: usize| json!({"at": "2026-11-21T05:40:00.000000Z", "node": "n1", "level": "INFO", "event": format!("E{n}"), "text": "a=b"});
        Seen {
            cluster: json!({"node": "n1", "nodes": (1..=nodes).map(node).collect::<Vec<_>>(), "totals": {}}),
            jobs: json!({"running": (0..jobs).map(running).collect::<Vec<_>>(), "were": (0..jobs).map(was).collect::<Vec<_>>()}),
            events: json!({"events": (0..events).map(event).collect::<Vec<_>>(), "silent": []}),
        }
    }

    #[test]
    fn a_screen_of_80_by_24_has_some_of_everything() {
        let lines = lines(&seen(20, 9, 50), 80, 24, 24);
        let all: Vec<&str> = lines.iter().map(|l| l.text.as_str()).collect();
        assert_eq!(lines.len(), 24);
        assert!(all[0].contains("all is well"));
        for start in [
            "n1 ",
            "... and 14 more nodes",
            "j0 ",
            "w0 ",
            "05:40:00 n1 E49 a=b",
        ] {
            assert!(
                all.iter().any(|line| line.starts_with(start)),
                "{start}: {all:#?}"
            );
        }
    }

    #[test]
    fn what_is_wrong_comes_first() {
        let mut seen = seen(3, 0, 0);
        seen.cluster["nodes"][2] = json!({"node": "n3", "member": "failed", "error": "boom"});
        seen.cluster["nodes"][1]["disk"]["level"] = "fills".into();
        let lines = lines(&seen, 80, 24, 24);
        let starts: Vec<&str> = lines.iter().filter_map(|l| l.text.get(..2)).collect();
        assert_eq!(starts[2..5], ["n3", "n2", "n1"]);
        assert_eq!(
            (lines[0].kind, lines[2].kind, lines[3].kind),
            (Kind::Bad, Kind::Bad, Kind::Warn)
        );
        assert!(lines[0].text.contains("1 of 3 nodes away"));
    }

    #[test]
    fn what_a_log_says_moves_no_cursor() {
        let mut seen = seen(1, 0, 1);
        seen.events["events"][0]["text"] = "\u{1b}[2J".into();
        let lines = lines(&seen, 80, 24, 24);
        assert!(lines.iter().any(|l| l.text.contains("\\x1b[2J")));
    }

    proptest! {
        #[test]
        fn any_screen_is_kept_to(width in 0usize..200, height in 0usize..60, nodes in 0usize..20, jobs in 0usize..9) {
            let lines = lines(&seen(nodes, jobs, 30), width, height, height);
            prop_assert!(lines.len() <= height);
            prop_assert!(lines.iter().all(|l| l.text.chars().count() <= width));
        }
    }
}
