//! Every way to falsify a history that the checker must see, with the words (one of them) that it must say.

mod across;
mod bases;
mod checkpoints;
mod epochs;
mod orders;
mod source;
mod stored;

use std::collections::BTreeSet;

use common::ids::{Epoch, TaskId};
use hydfs::client::{ClientId, Span};
use protocol::control::OpKind;
use protocol::task_log::{Cut, Order, Record, SourceRun};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;

use super::Outcome;
use super::history::{History, Stored, Written, ended, stream};
use super::shape::Shape;
use protocol::task_log::Keeps;

/// Falsifies the history; `None`: it has nothing of that kind.
pub type Tamper = fn(&mut History, &mut StdRng) -> Option<()>;
/// Falsifies one task's stored bytes.
pub type TamperBytes = fn(&mut Stored, &mut StdRng) -> Option<()>;

pub type Row<T> = (&'static str, T, &'static [&'static str]);

// --- finding a victim -------------------------------------------------------------------------------------------------

fn pick(
    job: &History,
    rng: &mut StdRng,
    wanted: impl Fn(TaskId, &Record) -> bool,
) -> Option<(TaskId, usize)> {
    let all = job.logs.iter().flat_map(|(task, log)| {
        let wanted = &wanted;
        let some = log.iter().enumerate();
        some.filter(move |(_, (_, r))| wanted(*task, r))
            .map(|(i, _)| (*task, i))
    });
    all.choose(rng)
}

fn log(job: &mut History, task: TaskId) -> Option<&mut Vec<Written>> {
    job.logs.get_mut(&task)
}

fn order(job: &mut History, rng: &mut StdRng, wanted: fn(&Order) -> bool) -> Option<(TaskId, usize, u64)> {
    // Where nothing is void: positions come once, and can be counted.
    let straight: BTreeSet<TaskId> = job.logs.keys().filter(|t| !job.has_voids(**t)).copied().collect();
    let hit =
        |t, r: &Record| matches!(r, Record::Order { order, .. } if wanted(order) && straight.contains(&t));
    let (task, i) = pick(job, rng, hit)?;
    match log(job, task)?[i].1 {
        Record::Order { pos, .. } => Some((task, i, pos)),
        _ => None,
    }
}

/// Changes an order record in place.
fn edit_order(
    job: &mut History,
    rng: &mut StdRng,
    wanted: fn(&Order) -> bool,
    edit: fn(&mut Order),
) -> Option<()> {
    let (task, i, _) = order(job, rng, wanted)?;
    if let Record::Order { order, .. } = &mut log(job, task)?[i].1 {
        edit(order);
    }
    Some(())
}

fn edit_run(job: &mut History, rng: &mut StdRng, edit: fn(&mut SourceRun)) -> Option<()> {
    let (task, i, _) = order(job, rng, is_run)?;
    if let Record::Order {
        order: Order::Source(run),
        ..
    } = &mut log(job, task)?[i].1
    {
        edit(run);
    }
    Some(())
}

fn edit_cut(
    job: &mut History,
    rng: &mut StdRng,
    wanted: impl Fn(TaskId, &Cut) -> bool,
    edit: impl Fn(&mut Cut),
) -> Option<()> {
    let (task, i) = pick(
        job,
        rng,
        |t, r| matches!(r, Record::Checkpoint(c) if wanted(t, c)),
    )?;
    if let Record::Checkpoint(cut) = &mut log(job, task)?[i].1 {
        edit(cut);
    }
    Some(())
}

fn is_batch(order: &Order) -> bool {
    matches!(order, Order::Input { .. })
}

/// Of a file that does not grow.
fn is_run(order: &Order) -> bool {
    matches!(order, Order::Source(run) if !run.growing)
}

fn keeps(job: &History, task: TaskId) -> Keeps {
    Shape::of(&job.facts.plan.task_plan(task, Epoch(1))).keeps
}

/// Positions behind `pos` move by one, everywhere in the log: what was cut out (or put in) leaves no gap.
fn renumber(log: &mut [Written], pos: u64, up: bool) {
    for (_, record) in log {
        let p = match record {
            Record::Order { pos, .. } | Record::Began { pos, .. } => pos,
            Record::Production { pos, .. } | Record::Tuples { pos, .. } => pos,
            Record::Checkpoint(cut) => &mut cut.pos,
            Record::Base(base) => &mut base.cut.pos,
        };
        match up {
            true if *p >= pos => *p += 1,
            false if *p > pos => *p -= 1,
            _ => {}
        }
    }
}

/// Cuts an order record out without a trace in the numbering.
fn cut_out(job: &mut History, rng: &mut StdRng, wanted: fn(&Order) -> bool) -> Option<()> {
    let (task, i, pos) = order(job, rng, wanted)?;
    let log = log(job, task)?;
    log.remove(i);
    renumber(log, pos, false);
    Some(())
}

/// Puts `make(order)` behind an order record, and moves on what follows.
fn put_in(
    job: &mut History,
    rng: &mut StdRng,
    wanted: fn(&Order) -> bool,
    make: fn(Order) -> Order,
) -> Option<()> {
    let (task, i, pos) = order(job, rng, wanted)?;
    let log = log(job, task)?;
    renumber(&mut log[i + 1..], pos + 1, true);
    let Record::Order { order, .. } = log[i].1.clone() else {
        return None;
    };
    let record = Record::Order {
        pos: pos + 1,
        order: make(order),
    };
    log.insert(i + 1, (log[i].0, record));
    Some(())
}

/// A process's beginning that is not the task's first, and has something of its own behind it.
fn restart(job: &History, rng: &mut StdRng) -> Option<(TaskId, usize)> {
    pick(job, rng, |_, r| matches!(r, Record::Began { .. }))
        .filter(|(_, i)| *i > 0)
        .filter(|(task, i)| {
            let next = job.logs[task].get(i + 1);
            next.is_some_and(|(_, r)| !matches!(r, Record::Began { .. }))
        })
}

/// The job is cut off where `task` stood before its first checkpoint.
fn without_checkpoint(job: &mut History, task: TaskId) -> Option<()> {
    job.facts.outcome = Outcome::Open;
    job.facts.done.clear();
    let log = log(job, task)?;
    let first = log.iter().position(|(_, r)| matches!(r, Record::Checkpoint(_)))?;
    log.truncate(first);
    Some(())
}

fn a_last_task(
    job: &History,
    rng: &mut StdRng,
    wanted: impl Fn(&hydfs::client::StreamInfo) -> bool,
) -> Option<TaskId> {
    let last = job
        .logs
        .keys()
        .filter(|t| job.facts.plan.downstream(**t).is_empty());
    let tasks = last
        .copied()
        .filter(|t| job.dest.of(&format!("j/{t}")).is_some_and(&wanted));
    tasks.choose(rng)
}

/// All tables of falsified histories.
pub fn rows() -> impl Iterator<Item = &'static Row<Tamper>> {
    let tables = [
        orders::ROWS,
        source::ROWS,
        checkpoints::ROWS,
        epochs::ROWS,
        bases::ROWS,
        across::ROWS,
    ];
    tables.into_iter().flatten()
}

pub use stored::ROWS as STORED;

/// A history for each seed.
pub fn histories() -> impl Iterator<Item = (u64, History)> {
    (0..3000).map(|seed| (seed, ended(seed)))
}
