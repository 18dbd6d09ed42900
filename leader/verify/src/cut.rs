//! A checkpoint against the one before it, the outputs' arithmetic and the snapshot file. (Against the order records:
//! [`super::state`].)

use protocol::control::{OpKind, TaskPlan};
use protocol::task_log::{Cut, Keeps};

use super::shape::Shape;
use super::shape::is_peer;
use super::state::State;

/// What is wrong with `cut`. `state`: after the order records up to it.
pub fn wrong(
    cut: &Cut,
    last: Option<&Cut>,
    state: &State,
    plan: &TaskPlan,
    shape: Shape,
    snapshot_len: u64,
) -> Vec<String> {
    let mut wrong = vec![];
    let outputs = shape.outputs(state.targets.len());
    if cut.emitted.len() != outputs {
        wrong.push(format!(
            "it speaks of {} outputs, there are {outputs}",
            cut.emitted.len()
        ));
        return wrong;
    }
    if let Some(last) = last {
        shrunk(last, cut, &mut wrong);
    }
    acknowledged(cut, shape, &mut wrong);
    counted(cut, plan, shape, state, &mut wrong);
    match plan.op.as_ref().map(|op| op.kind) {
        None => routed(cut, state, &mut wrong),
        Some(OpKind::Filter) if cut.tuples_out > cut.tuples_in => wrong.push(format!(
            "a filter put {} tuples out, of {}",
            cut.tuples_out, cut.tuples_in
        )),
        Some(_) => {}
    }
    snapshot(cut, snapshot_len, &mut wrong);
    wrong
}

/// Outputs and counters only grow.
fn shrunk(last: &Cut, cut: &Cut, wrong: &mut Vec<String>) {
    if cut.tuples_out < last.tuples_out {
        wrong.push(format!(
            "it says that {} tuples went out, the checkpoint before said {}",
            cut.tuples_out, last.tuples_out
        ));
    }
    for (i, (before, now)) in last.emitted.iter().zip(&cut.emitted).enumerate() {
        if now < before {
            wrong.push(format!(
                "output {i} has come to {now} units, in the checkpoint before to {before}"
            ));
        }
    }
}

/// Either all that was emitted is acknowledged, or the log can give the rest again and says how much is.
fn acknowledged(cut: &Cut, shape: Shape, wrong: &mut Vec<String>) {
    match (shape.keeps, cut.acked.len()) {
        (_, 0) => {}
        (Keeps::Order, _) => wrong.push(
            "not all of its outputs were acknowledged, and the log holds nothing to give them again".into(),
        ),
        (_, n) if n != cut.emitted.len() => wrong.push(format!(
            "it speaks of {n} acknowledged outputs, there are {}",
            cut.emitted.len()
        )),
        _ => {}
    }
    for (i, (acked, emitted)) in cut.acked.iter().zip(&cut.emitted).enumerate() {
        if acked > emitted {
            wrong.push(format!(
                "{acked} units of output {i} are acknowledged, of {emitted}"
            ));
        }
    }
}

/// The outputs come to what was counted; end marks count as a unit each.
fn counted(cut: &Cut, plan: &TaskPlan, shape: Shape, state: &State, wrong: &mut Vec<String>) {
    if plan.downstream.is_empty() {
        // Each tuple is a line of at least its newline.
        if cut.emitted[0] < cut.tuples_out {
            wrong.push(format!("{} tuples in {} bytes", cut.tuples_out, cut.emitted[0]));
        }
        return;
    }
    // What went to tasks of the same stage are keys with their state.
    let channels = (0..state.targets.len()).filter(|c| !is_peer(state.targets[*c], plan));
    let ends = channels.clone().filter(|c| state.is_ended(*c)).count() as u128;
    let units = channels.map(|c| cut.emitted[shape.output(c)].saturating_sub(state.marks[c]));
    let units: u128 = units.map(u128::from).sum();
    if units != u128::from(cut.tuples_out) + ends {
        wrong.push(format!(
            "{} tuples went out{}, the outputs come to {units} units",
            cut.tuples_out,
            if ends > 0 { " and each output's end" } else { "" }
        ));
    }
}

/// A source's outputs follow from what it read.
fn routed(cut: &Cut, state: &State, wrong: &mut Vec<String>) {
    for (i, (says, lines)) in cut.emitted.iter().zip(&state.routed).enumerate() {
        let units = lines.saturating_add(u64::from(state.is_ended(i)) + state.marks[i]);
        if *says != units {
            wrong.push(format!(
                "output {i} has come to {says} units, by the lines read it is {units}"
            ));
        }
    }
}

fn snapshot(cut: &Cut, len: u64, wrong: &mut Vec<String>) {
    let mut end = 0u64;
    for (offset, bytes) in &cut.snapshot {
        let to = offset.saturating_add(*bytes);
        if *bytes == 0 || *offset < end {
            wrong.push(format!(
                "the snapshot's piece {offset}..{to} is empty, or not behind {end}"
            ));
        }
        if to > len {
            wrong.push(format!(
                "the snapshot's piece {offset}..{to} is not in the snapshot file, which has {len} bytes"
            ));
        }
        end = to;
    }
}
