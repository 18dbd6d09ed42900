//! What replaying a task's order records comes to: the same numbers that the task keeps in its cuts, worked out anew
//! from the plan and the records alone.

use std::collections::{BTreeMap, BTreeSet};

use common::ids::{Creation, TaskId};
use protocol::control::{Slice, TaskPlan};
use protocol::groups::Owners;
use protocol::task_log::{Base, Cut, LinePosition, Order, Owned, Places, SourcePos, SourceRun};

use super::shape::is_peer;

/// How far a source has read one slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Where its first line starts; `None`: what the log held of it is gone.
    pub first: Option<LinePosition>,
    /// What comes next; `None`: it was read to its end, and what the log held of that is gone.
    pub next: Option<LinePosition>,
    pub done: bool,
}

/// A task after some of its order records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Units consumed per upstream task.
    pub consumed: BTreeMap<TaskId, u64>,
    pub ended: BTreeSet<TaskId>,
    pub done: bool,
    pub tuples_in: u64,
    /// The slice that a source reads now, and all that it has begun.
    pub slice: u32,
    pub slices: BTreeMap<u32, Reading>,
    /// A source's lines per channel.
    pub routed: Vec<u64>,
    /// Channels, in the order in which they were opened, and which of them the routing in force chooses from.
    pub targets: Vec<TaskId>,
    pub active: Vec<usize>,
    /// Per channel: marks of new versions in it.
    pub marks: Vec<u64>,
    /// Where the next stage's state moves with its routing: whose the key groups are.
    owners: Option<Owners>,
    /// Where this stage's does: its own routing.
    pub owned: Option<Owned>,
}

impl State {
    pub fn new(plan: &TaskPlan) -> Self {
        Self {
            routed: vec![0; plan.downstream.len()],
            targets: plan.downstream.clone(),
            active: (0..plan.downstream.len()).collect(),
            marks: vec![0; plan.downstream.len()],
            owners: plan.marks.then(|| Owners::new(&plan.downstream)),
            owned: plan.owned.clone().map(|table| Owned {
                table,
                ..Owned::default()
            }),
            ..Self::default()
        }
    }

    /// The task at a base, whose beginnings are gone: as the base says, and as the plan says where it does not.
    pub fn at(base: &Base, plan: &TaskPlan) -> Self {
        let mut state = Self::new(plan);
        for to in &base.receivers {
            state.open(*to);
        }
        let cut = &base.cut;
        let routes = plan.routes.iter();
        for route in routes.filter(|r| r.version > plan.route && r.version <= cut.route) {
            state.reroute(&route.tasks);
        }
        state.adopt(cut);
        for reading in state.slices.values_mut() {
            reading.first = None;
        }
        for (index, slice) in plan.slices.iter().enumerate() {
            let index = index as u32;
            if let Some(reading) = state.slices.get_mut(&index).filter(|_| plan.follow) {
                reading.done = reading.next.is_some_and(|next| next.at >= slice.end);
            } else if !plan.follow && index < cut.source.slice {
                let gone = Reading {
                    first: None,
                    next: None,
                    done: true,
                };
                state.slices.insert(index, gone);
            }
        }
        for channel in 0..state.targets.len() {
            let marks = state.marks[channel] + u64::from(state.is_ended(channel));
            let emitted = cut.emitted.get(channel).copied().unwrap_or(0);
            state.routed[channel] = emitted.saturating_sub(marks);
        }
        state
    }

    /// The tasks that the routing in force chooses from.
    pub fn active_tasks(&self) -> Vec<TaskId> {
        self.active.iter().map(|channel| self.targets[*channel]).collect()
    }

    pub fn consumed(&self, from: TaskId) -> u64 {
        self.consumed.get(&from).copied().unwrap_or(0)
    }

    /// Takes one more record. Returns what is wrong with it; goes on from what it says all the same, so that one fault is
    /// found once.
    pub fn apply(&mut self, order: &Order, plan: &TaskPlan) -> Vec<String> {
        let mut wrong = vec![];
        // Who hears of tasks that come when all has ended still gives them its end.
        if self.done && !matches!(order, Order::Route { .. }) {
            wrong.push("it comes after the finish".into());
        }
        match order {
            Order::Input { from, start, end } => {
                self.channel(*from, *start, plan, &mut wrong);
                self.tuples_after_marks(*from, plan, &mut wrong);
                if end <= start {
                    wrong.push(format!("units {start}..{end} of {from} are none"));
                }
                self.tuples_in = self.tuples_in.saturating_add(end.saturating_sub(*start));
                self.consumed.insert(*from, *end);
            }
            Order::InputEnd { from, at } => {
                self.channel(*from, *at, plan, &mut wrong);
                self.ended.insert(*from);
                self.consumed.insert(*from, at.saturating_add(1));
            }
            Order::Source(run) => self.read(run, plan, &mut wrong),
            Order::Finish => {
                self.finish(plan, &mut wrong);
                self.done = true;
            }
            Order::Route { version, tasks } => {
                let known = plan.routes.iter().find(|r| r.version == *version);
                if known.is_none_or(|r| r.tasks != *tasks) {
                    wrong.push(format!("version {version} of the routing is not the plan's"));
                }
                self.reroute(tasks);
            }
            Order::Mark {
                from,
                at,
                version,
                tasks,
            } => {
                self.channel(*from, *at, plan, &mut wrong);
                self.consumed.insert(*from, at.saturating_add(1));
                self.mark(*from, *version, tasks, plan, &mut wrong);
            }
            Order::Adopt { from, start, end } => {
                self.channel(*from, *start, plan, &mut wrong);
                self.consumed.insert(*from, *end);
                self.adopt_keys(*from, plan, &mut wrong);
            }
            Order::HandOver { version, to } => self.hand_over(*version, to, plan, &mut wrong),
        }
        wrong
    }

    fn reroute(&mut self, tasks: &[TaskId]) {
        let mut marked = std::mem::take(&mut self.active);
        for task in tasks {
            let channel = self.open(*task);
            self.active.push(channel);
        }
        if self.owners.is_some() {
            self.owners = Some(Owners::new(tasks));
            marked.extend(&self.active);
            marked.sort_unstable();
            marked.dedup();
            // Once all has ended, no tuple follows that a mark would speak of.
            for channel in marked.into_iter().filter(|_| !self.done) {
                self.marks[channel] += 1;
            }
        }
    }

    /// The channel to a task, opened if there is none.
    pub fn open(&mut self, task: TaskId) -> usize {
        let known = self.targets.iter().position(|t| *t == task);
        known.unwrap_or_else(|| {
            self.targets.push(task);
            self.routed.push(0);
            self.marks.push(0);
            self.targets.len() - 1
        })
    }

    /// Whether a channel has had its end mark.
    pub fn is_ended(&self, channel: usize) -> bool {
        self.done || !self.active.contains(&channel)
    }

    fn channel(&self, from: TaskId, start: u64, plan: &TaskPlan, wrong: &mut Vec<String>) {
        if !plan.upstream.contains(&from) && !is_peer(from, plan) {
            wrong.push(format!("{from} is not upstream of {}", plan.task));
        }
        let have = self.consumed(from);
        if self.ended.contains(&from) {
            wrong.push(format!("{from} had ended at unit {}", have.saturating_sub(1)));
        }
        if start > have {
            wrong.push(format!("units {have}..{start} of {from} were never consumed"));
        } else if start < have {
            wrong.push(format!(
                "units {start}..{have} of {from} were consumed before: twice now"
            ));
        }
    }

    fn read(&mut self, run: &SourceRun, plan: &TaskPlan, wrong: &mut Vec<String>) {
        if !plan.upstream.is_empty() || plan.op.is_some() {
            wrong.push(format!("{} is not a source", plan.task));
        }
        let slice = plan.slices.get(run.slice as usize);
        if run.growing != plan.follow {
            wrong.push(match run.growing {
                true => "files that grow are read in turn, and this job follows none".into(),
                false => "a job that follows its files reads them in turn".to_owned(),
            });
        }
        if !run.growing {
            if slice.is_none() {
                wrong.push(format!(
                    "there are {} slices, not {}",
                    plan.slices.len(),
                    run.slice
                ));
            } else if run.slice != self.slice {
                wrong.push(format!(
                    "a run of slice {} where slice {} was to be read",
                    run.slice, self.slice
                ));
            }
        }
        let here = LinePosition {
            at: run.from,
            line: run.first_line,
        };
        let (next, begin) = match self.slices.get(&run.slice) {
            Some(reading) => (reading.next.unwrap_or(here), None),
            None => (here, Some(here)),
        };
        if self.slices.get(&run.slice).is_some_and(|r| r.done) {
            wrong.push(format!("slice {} was read to its end before", run.slice));
        }
        if (next.at, next.line) != (run.from, run.first_line) {
            wrong.push(format!(
                "the run begins at byte {}, line {}; byte {}, line {} was next",
                run.from, run.first_line, next.at, next.line
            ));
        }
        if run.to < run.from || (run.to == run.from) != (run.lines == 0) {
            wrong.push(format!("{} lines in bytes {}..{}", run.lines, run.from, run.to));
        }
        if let Some(slice) = slice {
            if slice.creation.is_some() && run.creation != slice.creation {
                let said = |c: Option<Creation>| c.map_or("unnamed".to_owned(), |c| c.to_string());
                wrong.push(format!(
                    "it is of another file named {}: creation {}, where the plan has {}",
                    slice.file,
                    said(run.creation),
                    said(slice.creation)
                ));
            }
            if let Some(at) = begin {
                wrong.extend(begins_wrong(slice, at));
            }
            // The last line may reach behind the slice's end; a file that grows has its end elsewhere.
            if !run.growing && run.last != (run.to >= slice.end) {
                wrong.push(format!(
                    "the run ends at byte {} of {}, the slice at {}, and it is said {}to be the last",
                    run.to,
                    slice.file,
                    slice.end,
                    if run.last { "" } else { "not " }
                ));
            }
        }
        let after = LinePosition {
            at: run.to,
            line: run.first_line.saturating_add(run.lines),
        };
        let reading = self.slices.entry(run.slice).or_insert(Reading {
            first: Some(next),
            next: None,
            done: false,
        });
        (reading.next, reading.done) = (Some(after), run.last);
        if run.growing {
            reading.done = slice.is_some_and(|s| run.to >= s.end);
        } else {
            self.slice = run.slice.saturating_add(u32::from(run.last));
        }
        self.tuples_in = self.tuples_in.saturating_add(run.lines);
        match (&self.owners, slice) {
            (Some(owners), Some(slice)) => {
                route_by_key(run, slice.label(), owners, &self.active, &mut self.routed);
            }
            _ => route(run, &self.active, &mut self.routed),
        }
    }

    fn finish(&self, plan: &TaskPlan, wrong: &mut Vec<String>) {
        let open: Vec<String> = plan
            .upstream
            .iter()
            .filter(|u| !self.ended.contains(u))
            .map(|u| u.to_string())
            .collect();
        if !open.is_empty() {
            wrong.push(format!("it finished before {} had ended", open.join(", ")));
        }
        let left = plan.slices.iter().enumerate();
        let left = left.filter(|(i, _)| !self.slices.get(&(*i as u32)).is_some_and(|r| r.done));
        if !plan.follow
            && let Some((i, slice)) = left.clone().next()
        {
            wrong.push(format!(
                "it finished with {} slices not read to their end, the first being slice {i}, {}[{}..{}]",
                left.count(),
                slice.file,
                slice.start,
                slice.end
            ));
        }
    }

    /// Where this is not what the cut says.
    pub fn differs(&self, cut: &Cut, plan: &TaskPlan) -> Vec<String> {
        let mut wrong = vec![];
        let upstream: BTreeSet<TaskId> = self.consumed.keys().chain(cut.consumed.keys()).copied().collect();
        for from in upstream {
            let (says, is) = (cut.consumed.get(&from).copied().unwrap_or(0), self.consumed(from));
            if says != is {
                wrong.push(format!(
                    "it says that {says} units of {from} are consumed, the order records come to {is}"
                ));
            }
        }
        if cut.ended != self.ended {
            wrong.push(format!(
                "it says that {} have ended, by the order records {} have",
                names(&cut.ended),
                names(&self.ended)
            ));
        }
        if cut.done != self.done {
            wrong.push(format!(
                "it says done={}, by the order records it is {}",
                cut.done, self.done
            ));
        }
        if cut.tuples_in != self.tuples_in {
            wrong.push(format!(
                "it says that {} tuples came in, the order records come to {}",
                cut.tuples_in, self.tuples_in
            ));
        }
        if cut.owned != self.owned {
            wrong.push(format!(
                "it says that of its own stage's routing {} is in force, by the order records it is {}",
                version(cut.owned.as_ref()),
                version(self.owned.as_ref())
            ));
        }
        let is = self.source(plan);
        let says = &cut.source;
        if (says.slice, says.at, says.line) != (is.slice, is.at, is.line) {
            wrong.push(format!(
                "it says that the source stands at {}, by the order records it is {}",
                place(says),
                place(&is)
            ));
        }
        let slices: BTreeSet<u32> = is.growing.keys().chain(says.growing.keys()).copied().collect();
        for slice in slices {
            let (says, is) = (says.growing.get(&slice), is.growing.get(&slice));
            if says != is {
                let at = |p: Option<&LinePosition>| {
                    p.map_or("nowhere".into(), |p| format!("byte {}, line {}", p.at, p.line))
                };
                wrong.push(format!(
                    "it says that slice {slice} is read up to {}, by the order records it is {}",
                    at(says),
                    at(is)
                ));
            }
        }
        wrong
    }

    /// As a cut has it.
    fn source(&self, plan: &TaskPlan) -> SourcePos {
        if plan.follow {
            let growing = self.slices.iter();
            let growing = growing.filter_map(|(slice, reading)| Some((*slice, reading.next?)));
            return SourcePos {
                growing: growing.collect(),
                ..SourcePos::default()
            };
        }
        let within = self.slices.get(&self.slice).filter(|r| !r.done);
        SourcePos {
            slice: self.slice,
            at: within.and_then(|r| r.next).map(|next| next.at),
            line: within.and_then(|r| r.next).map_or(0, |next| next.line),
            growing: Places::default(),
        }
    }

    /// The fault was found: goes on from the cut, so that those behind it do not repeat it.
    pub fn adopt(&mut self, cut: &Cut) {
        self.consumed.clone_from(&cut.consumed);
        self.ended.clone_from(&cut.ended);
        self.owned.clone_from(&cut.owned);
        (self.done, self.tuples_in) = (cut.done, cut.tuples_in);
        self.slice = cut.source.slice;
        for (slice, place) in &cut.source.growing {
            let next = *place;
            let reading = self.slices.entry(*slice).or_insert(Reading {
                first: Some(next),
                next: None,
                done: false,
            });
            reading.next = Some(next);
        }
        if let Some(at) = cut.source.at {
            let next = LinePosition {
                at,
                line: cut.source.line,
            };
            let reading = self.slices.entry(self.slice).or_insert(Reading {
                first: Some(next),
                next: None,
                done: false,
            });
            (reading.next, reading.done) = (Some(next), false);
        }
    }
}

/// A slice's first line is the first that starts in it: right at its start when a newline stands before that, or behind
/// the end of the line that reaches in.
fn begins_wrong(slice: &Slice, first: LinePosition) -> Option<String> {
    let line = slice.newlines_before + 1 + u64::from(first.at > slice.start);
    let right = match slice.start {
        0 => first.at == 0 && first.line == slice.newlines_before + 1,
        start => first.at >= start && first.line == line,
    };
    (!right).then(|| {
        format!(
            "{}[{}..{}], {} newlines before it, cannot begin at byte {}, line {}",
            slice.file, slice.start, slice.end, slice.newlines_before, first.at, first.line
        )
    })
}

/// Lines go to the outputs by the groups of their keys.
fn route_by_key(run: &SourceRun, file: &str, owners: &Owners, active: &[usize], routed: &mut [u64]) {
    for line in (0..run.lines).map(|k| run.first_line.wrapping_add(k)) {
        let key = format!("{file}:{line}");
        if let Some(output) = active.get(owners.at_key(key.as_bytes())) {
            routed[*output] = routed[*output].saturating_add(1);
        }
    }
}

/// Lines go to the outputs by their number.
fn route(run: &SourceRun, active: &[usize], routed: &mut [u64]) {
    let n = active.len() as u64;
    if n == 0 {
        return;
    }
    for output in active {
        routed[*output] = routed[*output].saturating_add(run.lines / n);
    }
    for k in 0..run.lines % n {
        let output = run.first_line.wrapping_add(run.lines / n * n).wrapping_add(k) % n;
        let output = active[output as usize];
        routed[output] = routed[output].saturating_add(1);
    }
}

fn names(tasks: &BTreeSet<TaskId>) -> String {
    match tasks.len() {
        0 => "none".into(),
        _ => tasks.iter().map(TaskId::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// With what is coming.
fn version(owned: Option<&Owned>) -> String {
    let Some(owned) = owned else {
        return "none".into();
    };
    let next = owned.next.as_ref().map(|n| format!(", {} coming", n.version));
    format!("version {}{}", owned.table.version, next.unwrap_or_default())
}

fn place(pos: &SourcePos) -> String {
    match pos.at {
        Some(at) => format!("slice {}, byte {at}, line {}", pos.slice, pos.line),
        None => format!("the start of slice {}", pos.slice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_to_the_outputs_that_they_go_to() {
        for (first_line, lines, outputs) in [(1, 10, 3), (7, 2, 3), (5, 0, 2), (1, 1, 1), (99, 100, 7)] {
            let run = SourceRun {
                creation: None,
                slice: 0,
                from: 0,
                to: 0,
                first_line,
                lines,
                last: false,
                growing: false,
            };
            let mut routed = vec![0; outputs];
            route(&run, &(0..outputs).collect::<Vec<_>>(), &mut routed);
            let mut want = vec![0; outputs];
            (first_line..first_line + lines).for_each(|n| want[n as usize % outputs] += 1);
            assert_eq!(routed, want, "{run:?}");
        }
    }
}
