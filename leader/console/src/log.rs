//! `log JOB TASK`: a task's HyDFS log, a record a line.

use common::ids::{Epoch, JobName, TaskId};
use hydfs::client::Client;
use protocol::task_log::{self, Cut, Order, Record};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::files::{self, Content};
use crate::outcome::{Done, Error};
use ::verify::JobFacts;

pub async fn run(client: &Client, job: &JobName, task: TaskId, json: bool) -> Result<Done, Error> {
    let file = files::log(job, task);
    let Some(log) = files::read(client, &file).await? else {
        return Err(missing(client, job, task).await?);
    };
    let (text, damage) = decode(&log, json)?;
    Ok(Done {
        text,
        code: u8::from(damage.is_some()),
        complaint: damage.map(|d| format!("{file}: {d}")),
    })
}

/// Why there is no log.
async fn missing(client: &Client, job: &JobName, task: TaskId) -> Result<Error, Error> {
    let facts = JobFacts::of(&files::journal(client, job).await?);
    let why = match &facts {
        Some(facts) if !facts.plan.tasks().any(|t| t == task) => {
            let tasks: Vec<String> = facts.plan.tasks().map(|t| t.to_string()).collect();
            format!("the job has no such task; its tasks are {}", tasks.join(" "))
        }
        Some(facts) if !facts.plan.exactly_once => "with exactly_once=false tasks keep none".into(),
        _ => "the task has not begun, or the log was removed".into(),
    };
    Ok(Error::NoLog {
        job: job.to_string(),
        task,
        why,
    })
}

/// The records as lines, and what is wrong with the log where it cannot be read on.
fn decode(log: &Content, json: bool) -> Result<(String, Option<task_log::Error>), Error> {
    let mut lines = vec![];
    let mut epoch = Epoch::default();
    for record in task_log::records(&log.bytes) {
        let (at, record) = match record {
            Ok(read) => read,
            Err(damage) => return Ok((lines.join("\n"), Some(damage))),
        };
        match &record {
            Record::Began { epoch: now, .. } => epoch = *now,
            Record::Base(base) => epoch = base.epoch,
            _ => {}
        }
        let line = Line::of(log.begin + at as u64, epoch, &record);
        lines.push(if json {
            serde_json::to_string(&line)?
        } else {
            line.text()
        });
    }
    Ok((lines.join("\n"), None))
}

/// A record's word and fields, in the order in which they are shown.
struct Line {
    word: &'static str,
    fields: Vec<(&'static str, Value)>,
}

impl Line {
    fn of(at: u64, epoch: Epoch, record: &Record) -> Self {
        let mut fields = vec![("at", json!(at)), ("epoch", json!(epoch))];
        let word = match record {
            Record::Began { pos, .. } => {
                fields.push(("pos", json!(pos)));
                "BEGAN"
            }
            Record::Order { pos, order } => {
                fields.push(("pos", json!(pos)));
                fields.extend(order_fields(order));
                "ORDER"
            }
            Record::Checkpoint(cut) => {
                fields.extend(cut_fields(cut));
                "CHECKPOINT"
            }
            Record::Base(base) => {
                fields.extend([
                    ("processes", json!(base.processes)),
                    ("checkpoints", json!(base.checkpoints)),
                    ("digest", json!(format!("{:016x}", base.digest))),
                    ("receivers", json!(base.receivers)),
                ]);
                fields.extend(cut_fields(&base.cut));
                "BASE"
            }
            Record::Production {
                pos,
                output,
                start,
                end,
                tuples,
                born_us,
                payload,
            } => {
                fields.extend([
                    ("pos", json!(pos)),
                    ("output", json!(output)),
                    ("start", json!(start)),
                    ("end", json!(end)),
                    ("tuples", json!(tuples)),
                    ("born_us", json!(born_us)),
                    ("bytes", json!(payload.len())),
                ]);
                "PRODUCTION"
            }
            Record::Tuples { pos, frame } => {
                fields.extend([("pos", json!(pos)), ("bytes", json!(frame.len()))]);
                "TUPLES"
            }
        };
        Self { word, fields }
    }

    fn text(&self) -> String {
        let mut out = self.word.to_owned();
        for (name, value) in &self.fields {
            out.push(' ');
            out.push_str(name);
            out.push('=');
            out.push_str(&plain(value));
        }
        out
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = ("record", json!(self.word.to_ascii_lowercase()));
        serializer.collect_map(std::iter::once(&record).chain(&self.fields).map(|(k, v)| (k, v)))
    }
}

/// Without spaces, so that a line splits at them.
fn plain(value: &Value) -> String {
    let joined = |parts: Vec<String>, by: &str| match parts.is_empty() {
        true => "-".to_owned(),
        false => parts.join(by),
    };
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        // A pair is an extent: offset and length.
        Value::Array(list) if matches!(list.first(), Some(Value::Array(_))) => {
            let pairs = list.iter().map(|p| plain(p).replace(',', "+"));
            joined(pairs.collect(), ",")
        }
        Value::Array(list) => joined(list.iter().map(plain).collect(), ","),
        Value::Object(map) => {
            let parts = map.iter().map(|(k, v)| format!("{k}:{}", plain(v)));
            joined(parts.collect(), ",")
        }
        other => other.to_string(),
    }
}

fn order_fields(order: &Order) -> Vec<(&'static str, Value)> {
    match order {
        Order::Input { from, start, end } => vec![
            ("kind", json!("input")),
            ("from", json!(from)),
            ("start", json!(start)),
            ("end", json!(end)),
            ("tuples", json!(end.saturating_sub(*start))),
        ],
        Order::InputEnd { from, at } => vec![
            ("kind", json!("input_end")),
            ("from", json!(from)),
            ("start", json!(at)),
        ],
        Order::Source(run) => vec![
            (
                "kind",
                json!(if run.growing { "growing_source" } else { "source" }),
            ),
            ("slice", json!(run.slice)),
            ("start", json!(run.from)),
            ("end", json!(run.to)),
            ("first_line", json!(run.first_line)),
            ("lines", json!(run.lines)),
            ("last", json!(run.last)),
        ],
        Order::Finish => vec![("kind", json!("finish"))],
        Order::Route { version, tasks } => vec![
            ("kind", json!("route")),
            ("version", json!(version)),
            ("tasks", json!(tasks)),
        ],
        Order::Mark {
            from,
            at,
            version,
            tasks,
        } => vec![
            ("kind", json!("mark")),
            ("from", json!(from)),
            ("start", json!(at)),
            ("version", json!(version)),
            ("tasks", json!(tasks)),
        ],
        Order::Adopt { from, start, end } => vec![
            ("kind", json!("adopt")),
            ("from", json!(from)),
            ("start", json!(start)),
            ("end", json!(end)),
            ("keys", json!(end.saturating_sub(*start))),
        ],
        Order::HandOver { version, to } => vec![
            ("kind", json!("hand_over")),
            ("version", json!(version)),
            ("tasks", json!(to)),
        ],
    }
}

fn cut_fields(cut: &Cut) -> Vec<(&'static str, Value)> {
    let mut fields = vec![
        ("pos", json!(cut.pos)),
        ("done", json!(cut.done)),
        ("consumed", json!(cut.consumed)),
        ("ended", json!(cut.ended)),
        ("emitted", json!(cut.emitted)),
        ("tuples_in", json!(cut.tuples_in)),
        ("tuples_out", json!(cut.tuples_out)),
        ("bytes_in", json!(cut.bytes_in)),
        ("bytes_out", json!(cut.bytes_out)),
        ("slice", json!(cut.source.slice)),
        ("byte", json!(cut.source.at)),
        ("line", json!(cut.source.line)),
        ("snapshot", json!(cut.snapshot)),
    ];
    if !cut.acked.is_empty() {
        fields.push(("acked", json!(cut.acked)));
    }
    if !cut.source.growing.is_empty() {
        let places = cut.source.growing.iter();
        let places = places.map(|(slice, place)| (slice.to_string(), json!(place.at)));
        fields.push(("growing", Value::Object(places.collect())));
    }
    fields
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use protocol::task_log::{CUT_VERSION, SourceRun};

    fn sample() -> Content {
        let from = TaskId::new(0, 1);
        let cut = Cut {
            version: CUT_VERSION,
            pos: 2,
            consumed: BTreeMap::from([(from, 11), (TaskId::new(0, 0), 3)]),
            ended: BTreeSet::from([from]),
            emitted: vec![4, 5],
            snapshot: vec![(0, 7), (7, 2)],
            tuples_in: 13,
            ..Cut::default()
        };
        let run = SourceRun {
            creation: None,
            slice: 1,
            from: 5,
            to: 9,
            first_line: 2,
            lines: 1,
            last: true,
            growing: false,
        };
        let records = [
            Record::Began {
                epoch: Epoch(2),
                pos: 0,
            },
            Record::Order {
                pos: 1,
                order: Order::Input {
                    from,
                    start: 0,
                    end: 10,
                },
            },
            Record::Order {
                pos: 2,
                order: Order::InputEnd { from, at: 10 },
            },
            Record::Order {
                pos: 3,
                order: Order::Source(run),
            },
            Record::Checkpoint(Box::new(cut)),
            Record::Order {
                pos: 4,
                order: Order::Finish,
            },
        ];
        let mut bytes = vec![];
        records.iter().for_each(|r| task_log::encode(r, &mut bytes));
        Content { begin: 0, bytes }
    }

    #[test]
    fn a_record_is_a_line_for_grep() {
        let (text, damage) = decode(&sample(), false).unwrap();
        assert!(damage.is_none());
        let lines: Vec<String> = text
            .lines()
            .map(|l| {
                let words = l.split(' ').filter(|w| !w.starts_with("at="));
                words.collect::<Vec<_>>().join(" ")
            })
            .collect();
        assert_eq!(
            lines,
            [
                "BEGAN epoch=2 pos=0",
                "ORDER epoch=2 pos=1 kind=input from=s0t1 start=0 end=10 tuples=10",
                "ORDER epoch=2 pos=2 kind=input_end from=s0t1 start=10",
                "ORDER epoch=2 pos=3 kind=source slice=1 start=5 end=9 first_line=2 lines=1 last=true",
                "CHECKPOINT epoch=2 pos=2 done=false consumed=s0t0:3,s0t1:11 ended=s0t1 emitted=4,5 tuples_in=13 tuples_out=0 bytes_in=0 bytes_out=0 slice=0 byte=- line=0 snapshot=0+7,7+2",
                "ORDER epoch=2 pos=4 kind=finish",
            ]
        );
    }

    #[test]
    fn a_trimmed_log_is_shown_from_its_base_on() {
        let base = protocol::task_log::Base {
            epoch: Epoch(3),
            processes: 2,
            at: 700,
            ..Default::default()
        };
        let mut log = Content {
            begin: 700,
            bytes: vec![],
        };
        let cut = Cut {
            version: CUT_VERSION,
            pos: 9,
            ..Cut::default()
        };
        task_log::encode(
            &Record::Base(Box::new(protocol::task_log::Base { cut, ..base })),
            &mut log.bytes,
        );
        let (text, _) = decode(&log, false).unwrap();
        let begins =
            "BASE at=700 epoch=3 processes=2 checkpoints=0 digest=0000000000000000 receivers=- pos=9";
        assert!(text.starts_with(begins), "{text}");
    }

    #[test]
    fn json_has_the_same_fields_and_damage_is_told_behind_what_is_whole() {
        let mut log = sample();
        log.bytes.push(1);
        let (text, damage) = decode(&log, true).unwrap();
        assert!(damage.is_some());
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 6);
        assert_eq!(
            lines[1],
            json!({"record": "order", "at": lines[1]["at"], "epoch": 2, "pos": 1, "kind": "input", "from": "s0t1",
                "start": 0, "end": 10, "tuples": 10})
        );
        assert_eq!(lines[4]["snapshot"], json!([[0, 7], [7, 2]]));
    }
}
