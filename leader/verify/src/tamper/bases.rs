//! What a log begins with whose beginning was trimmed, and bases within a log.

use super::*;
use crate::history::trim;
use protocol::task_log::Base;

/// Changes a base within a log.
fn edit(
    job: &mut History,
    rng: &mut StdRng,
    wanted: impl Fn(TaskId, &Base) -> bool,
    edit: impl Fn(&mut Base),
) -> Option<()> {
    let (task, i) = pick(job, rng, |t, r| matches!(r, Record::Base(b) if wanted(t, b)))?;
    if let Record::Base(base) = &mut log(job, task)?[i].1 {
        edit(base);
    }
    Some(())
}

/// Changes the base that a trimmed log begins with.
fn edit_first(
    job: &mut History,
    rng: &mut StdRng,
    wanted: impl Fn(TaskId, &Base) -> bool,
    edit: impl Fn(&mut Base),
) -> Option<()> {
    let task = job.logs.keys().copied().choose(rng)?;
    trim(job, task, rng).then_some(())?;
    match &mut log(job, task)?[0].1 {
        Record::Base(base) if wanted(task, base) => edit(base),
        _ => return None,
    }
    Some(())
}

/// A task with a trimmed log, and what stands in it behind the base.
fn trimmed(job: &mut History, rng: &mut StdRng) -> Option<TaskId> {
    let task = job.logs.keys().copied().choose(rng)?;
    trim(job, task, rng).then_some(task)
}

pub const ROWS: &[Row<Tamper>] = &[
    (
        "a base that consumed more",
        |j, r| {
            edit(
                j,
                r,
                |_, b| !b.cut.consumed.is_empty(),
                |b| b.cut.consumed.values_mut().for_each(|n| *n += 1),
            )
        },
        &["it says that"],
    ),
    (
        "a base that emitted more",
        |j, r| {
            let plan = j.facts.plan.clone();
            edit(
                j,
                r,
                |t, _| !plan.downstream(t).is_empty(),
                |b| b.cut.emitted[0] += 1,
            )
        },
        &["the outputs come to"],
    ),
    (
        "a base of another place in the source",
        |j, r| edit(j, r, |_, b| b.cut.source.at.is_some(), |b| b.cut.source.line += 1),
        &["source stands"],
    ),
    (
        "a base of a later position",
        |j, r| edit(j, r, |_, _| true, |b| b.cut.pos += 1),
        &["the log had come to"],
    ),
    (
        "a base of another process",
        |j, r| edit(j, r, |_, _| true, |b| b.epoch.0 += 1),
        &["was not at work"],
    ),
    (
        "a base that forgets a process",
        |j, r| edit(j, r, |_, _| true, |b| b.processes -= 1),
        &["processes, the log comes to"],
    ),
    (
        "a base that counts a checkpoint more",
        |j, r| edit(j, r, |_, _| true, |b| b.checkpoints += 1),
        &["checkpoints, the log comes to"],
    ),
    (
        "a base with other receivers",
        |j, r| edit(j, r, |_, b| b.receivers.len() > 1, |b| b.receivers.reverse()),
        &["lead to other tasks"],
    ),
    (
        "a base of another log",
        |j, r| edit(j, r, |_, _| true, |b| b.digest ^= 1),
        &["digest differs"],
    ),
    (
        "a base that was written elsewhere",
        |j, r| edit(j, r, |_, _| true, |b| b.at += 1),
        &["written for byte"],
    ),
    (
        "another record before a base",
        |j, r| {
            let (task, i) = pick(j, r, |_, r| matches!(r, Record::Base(_)))?;
            let log = log(j, task)?;
            let first = log[..i]
                .iter()
                .position(|(_, r)| matches!(r, Record::Checkpoint(_)))?;
            if let Record::Checkpoint(cut) = &mut log[first].1 {
                cut.bytes_in += 1;
            }
            Some(())
        },
        &["digest differs"],
    ),
    (
        "a trimmed log that begins elsewhere",
        |j, r| {
            let task = trimmed(j, r)?;
            *j.begins.get_mut(&task)? += 1;
            Some(())
        },
        &["written for byte"],
    ),
    (
        "a trimmed log without its base",
        |j, r| {
            let task = trimmed(j, r)?;
            log(j, task)?.remove(0);
            Some(())
        },
        &["no base says what that came to"],
    ),
    (
        "a trimmed log whose base consumed more",
        |j, r| {
            let more = |b: &mut Base| b.cut.consumed.values_mut().for_each(|n| *n += 1);
            edit_first(
                j,
                r,
                |_, b| !b.cut.consumed.is_empty() && b.cut.ended.is_empty(),
                more,
            )
        },
        &["twice now"],
    ),
    (
        "a trimmed log whose base consumed less",
        |j, r| {
            let less = |b: &mut Base| b.cut.consumed.values_mut().for_each(|n| *n -= 1);
            let wanted = |_, b: &Base| !b.cut.consumed.is_empty() && b.cut.ended.is_empty();
            edit_first(j, r, wanted, less)
        },
        &["were never consumed"],
    ),
    (
        "a trimmed log whose base counts other outputs",
        |j, r| {
            let plan = j.facts.plan.clone();
            let wanted = |t, _: &Base| !plan.downstream(t).is_empty();
            edit_first(j, r, wanted, |b| b.cut.emitted[0] += 1)
        },
        &[
            "the outputs come to",
            "by the lines read",
            "were put out where unit",
        ],
    ),
    (
        "a trimmed log whose base stands elsewhere in the source",
        |j, r| edit_first(j, r, |_, b| b.cut.source.at.is_some(), |b| b.cut.source.line += 1),
        &["was next"],
    ),
    (
        "a trimmed log whose receivers may ask for what is gone",
        |j, r| {
            let task = trimmed(j, r)?;
            (keeps(j, task) == Keeps::Productions).then_some(())?;
            let log = log(j, task)?;
            let Record::Base(base) = &log[0].1 else {
                return None;
            };
            let emitted = base.cut.emitted.iter().position(|n| *n > 0)?;
            let newest = log
                .iter()
                .rposition(|(_, r)| matches!(r, Record::Checkpoint(_)))?;
            if let Record::Checkpoint(cut) = &mut log[newest].1 {
                cut.acked[emitted] = 0;
            }
            Some(())
        },
        &["a restart could not send the rest"],
    ),
    (
        "a trimmed log that routes elsewhere",
        |j, r| edit_first(j, r, |_, b| b.active.len() > 1, |b| b.active.reverse()),
        &["lead to other tasks"],
    ),
    (
        "a trimmed log that no checkpoint covers",
        |j, r| {
            let task = trimmed(j, r)?;
            j.facts.outcome = Outcome::Open;
            j.facts.done.clear();
            log(j, task)?.truncate(1);
            Some(())
        },
        &["no checkpoint from there on"],
    ),
];
