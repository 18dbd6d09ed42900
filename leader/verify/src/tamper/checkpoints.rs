//! Checkpoints.

use super::*;

pub const ROWS: &[Row<Tamper>] = &[
    (
        "a checkpoint that consumed more",
        |j, r| {
            edit_cut(
                j,
                r,
                |_, c| !c.consumed.is_empty(),
                |c| {
                    if let Some(n) = c.consumed.values_mut().next() {
                        *n += 1
                    }
                },
            )
        },
        &["it says that"],
    ),
    (
        "a checkpoint without an input's end",
        |j, r| {
            edit_cut(
                j,
                r,
                |_, c| !c.ended.is_empty(),
                |c| {
                    c.ended.pop_first();
                },
            )
        },
        &["have ended"],
    ),
    (
        "a checkpoint that is done, or is not",
        |j, r| edit_cut(j, r, |_, _| true, |c| c.done = !c.done),
        &["it says done="],
    ),
    (
        "a checkpoint that counted a tuple more",
        |j, r| edit_cut(j, r, |_, _| true, |c| c.tuples_in += 1),
        &["tuples came in"],
    ),
    (
        "a checkpoint with another line",
        |j, r| edit_cut(j, r, |_, c| c.source.at.is_some(), |c| c.source.line += 1),
        &["source stands"],
    ),
    (
        "a checkpoint with another slice",
        |j, r| edit_cut(j, r, |t, _| t.stage == 0, |c| c.source.slice += 1),
        &["source stands"],
    ),
    (
        "a checkpoint that emitted more",
        |j, r| {
            let plan = j.facts.plan.clone();
            edit_cut(j, r, |t, _| !plan.downstream(t).is_empty(), |c| c.emitted[0] += 1)
        },
        &["the outputs come to"],
    ),
    (
        "a source's lines on the wrong output",
        |j, r| {
            edit_cut(
                j,
                r,
                |t, c| t.stage == 0 && c.emitted.len() > 1 && c.emitted[0] > 0,
                |c| (c.emitted[0], c.emitted[1]) = (c.emitted[0] - 1, c.emitted[1] + 1),
            )
        },
        &["by the lines read"],
    ),
    (
        "an output that shrinks",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Checkpoint(_)))?;
            let log = log(j, task)?;
            let before = log[..i].iter().rev().find_map(|(_, r)| {
                if let Record::Checkpoint(c) = r {
                    c.emitted[0].checked_sub(1)
                } else {
                    None
                }
            })?;
            if let Record::Checkpoint(cut) = &mut log[i].1 {
                cut.emitted[0] = before
            }
            Some(())
        },
        &["in the checkpoint before"],
    ),
    (
        "a checkpoint with an output more",
        |j, r| edit_cut(j, r, |_, _| true, |c| c.emitted.push(0)),
        &["outputs, there are"],
    ),
    (
        "a filter that makes tuples",
        |j, r| {
            let (plan, one) = (j.facts.plan.clone(), 1);
            let filter = |t: TaskId| {
                plan.stages[usize::from(t.stage)]
                    .op
                    .as_ref()
                    .is_some_and(|op| op.kind == OpKind::Filter)
            };
            edit_cut(
                j,
                r,
                |t, _| filter(t),
                move |c| {
                    c.tuples_out = c.tuples_in + one;
                    c.emitted[0] += c.tuples_out
                },
            )
        },
        &["a filter put"],
    ),
    (
        "a checkpoint of another place",
        |j, r| edit_cut(j, r, |_, c| c.pos > 1, |c| c.pos -= 1),
        &["it says", "a checkpoint of position"],
    ),
    (
        "a checkpoint before its order records",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Checkpoint(_)))?;
            let log = log(j, task)?;
            let (_, Record::Checkpoint(cut)) = &log[i] else {
                return None;
            };
            let at = log
                .iter()
                .position(|(_, r)| matches!(r, Record::Order { pos, .. } if *pos == cut.pos))?;
            let record = log.remove(i);
            log.insert(at, (log[at].0, record.1));
            Some(())
        },
        &["the log had come to"],
    ),
    (
        "a checkpoint twice",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Checkpoint(_)))?;
            let log = log(j, task)?;
            log.insert(i, log[i].clone());
            Some(())
        },
        &["after one of"],
    ),
    (
        "drop the last checkpoint",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Checkpoint(c) if c.done))?;
            log(j, task)?.remove(i);
            Some(())
        },
        &["its newest checkpoint is of", "finished without a checkpoint"],
    ),
    (
        "a snapshot behind the file's end",
        |j, r| {
            edit_cut(
                j,
                r,
                |_, c| !c.snapshot.is_empty(),
                |c| {
                    if let Some(last) = c.snapshot.last_mut() {
                        last.1 += 1_000_000
                    }
                },
            )
        },
        &["not in the snapshot file"],
    ),
    (
        "a snapshot's pieces in another order",
        |j, r| edit_cut(j, r, |_, c| c.snapshot.len() > 1, |c| c.snapshot.reverse()),
        &["not behind"],
    ),
    (
        "no snapshot file",
        |j, r| {
            let (task, _) = pick(
                j,
                r,
                |_, r| matches!(r, Record::Checkpoint(c) if !c.snapshot.is_empty()),
            )?;
            j.snapshots.remove(&task).map(drop)
        },
        &["not in the snapshot file"],
    ),
    (
        "a checkpoint of another version",
        |j, r| edit_cut(j, r, |_, _| true, |c| c.version += 1),
        &["another version"],
    ),
    (
        "acknowledged what was not put out",
        |j, r| {
            edit_cut(
                j,
                r,
                |_, c| !c.acked.is_empty(),
                |c| c.acked[0] = c.emitted[0] + 1,
            )
        },
        &["are acknowledged, of"],
    ),
    (
        "acknowledged outputs that are not there",
        |j, r| edit_cut(j, r, |_, c| !c.acked.is_empty(), |c| c.acked.push(0)),
        &["acknowledged outputs, there are"],
    ),
    (
        "a checkpoint that outputs had not passed",
        |j, r| {
            let job = j.clone();
            edit_cut(
                j,
                r,
                |t, _| keeps(&job, t) == Keeps::Order,
                |c| c.acked = c.emitted.clone(),
            )
        },
        &["holds nothing to give them again"],
    ),
];
