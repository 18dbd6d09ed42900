//! Who the outputs go to, and how that changes while the task runs.
//!
//! Where the next stage keeps state that moves with its routing, each change puts a mark into every channel, those to tasks
//! that are new or out among them: what stands behind it goes by the new table (`handover.rs` is the receivers' side).
//!
//! A channel is an output for as long as the task lives: those of the routing that the task began with come first, then
//! the place for tuples set aside, then a channel for each task that was added, in the order of the versions. So an
//! output's index means the same in all its processes and cuts.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use common::clock::Time;
use common::ids::TaskId;
use protocol::control::Route;
use protocol::groups::Owners;
use protocol::task_log::{Base, Record};

use super::Config;
use super::effect::Effect;
use super::mutants::Mutant;
use super::output::Output;
use super::router::Router;

/// A task with many receivers keeps as much as these windows hold, not more for each of them.
const FULL_WINDOWS: usize = 3;

/// Whom a task hears and speaks to.
#[derive(Debug, Clone, Default)]
pub struct Neighbours {
    pub upstream: Vec<TaskId>,
    /// The last stage: one output, a stream into the destination.
    pub is_last: bool,
    /// The next stage's routing as the task's first process had it ...
    pub downstream: Vec<TaskId>,
    pub version: u32,
    /// ... and what is known of later ones.
    pub routes: Vec<Route>,
    /// The next stage's state moves with its routing.
    pub marks: bool,
    /// Where this task's state does: its own stage's routing as its first process had it.
    pub owned: Option<Route>,
}

/// The outputs, and which of them are in use.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    list: Vec<Output>,
    /// Per output the task that it leads to; `None` for a stream into a file.
    receivers: Vec<Option<TaskId>>,
    /// Indexes of the outputs that are chosen from, in routing order.
    active: Vec<usize>,
    /// Where changes are marked: who of them owns which key groups.
    owners: Option<Owners>,
    /// The output for tuples set aside.
    aside: Option<usize>,
    /// Versions that are not in force yet.
    coming: VecDeque<Route>,
    /// What receivers are known to have of outputs that are yet to be made again.
    acked: Vec<u64>,
    /// Since when something is open that nothing closes but the linger.
    open_since: Option<Time>,
}

impl Outputs {
    pub fn new(neighbours: &Neighbours, sets_aside: bool) -> Self {
        let mut list: Vec<Output> = match neighbours.is_last {
            true => vec![Output::destination(0)],
            false => neighbours.downstream.iter().map(|_| Output::channel(0)).collect(),
        };
        let mut receivers: Vec<Option<TaskId>> = match neighbours.is_last {
            true => vec![None],
            false => neighbours.downstream.iter().copied().map(Some).collect(),
        };
        let active = (0..receivers.len()).collect();
        let owners = (neighbours.marks && !neighbours.is_last).then(|| Owners::new(&neighbours.downstream));
        let mut aside = None;
        if sets_aside {
            aside = Some(receivers.len());
            receivers.push(None);
            list.push(Output::destination(0));
        }
        Self {
            list,
            receivers,
            active,
            owners,
            aside,
            coming: neighbours.routes.iter().cloned().collect(),
            acked: vec![],
            open_since: None,
        }
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Output> {
        self.list.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Output> {
        self.list.iter_mut()
    }

    pub fn get_mut(&mut self, index: usize) -> Option<&mut Output> {
        self.list.get_mut(index)
    }

    pub fn list_mut(&mut self) -> &mut [Output] {
        &mut self.list
    }

    /// Units emitted, by output.
    pub fn emitted(&self) -> Vec<u64> {
        self.list.iter().map(Output::emitted).collect()
    }

    /// The same, without a new vector: this is done for each unit of work.
    pub fn note_emitted(&self, emitted: &mut Vec<u64>) {
        emitted.clear();
        emitted.extend(self.list.iter().map(Output::emitted));
    }

    pub fn are_acknowledged(&self) -> bool {
        self.list.iter().all(|o| o.acked() >= o.emitted())
    }

    /// All that was emitted up to a cut is acknowledged.
    pub fn have_passed(&self, emitted: &[u64]) -> bool {
        self.list
            .iter()
            .zip(emitted)
            .all(|(o, emitted)| o.acked() >= *emitted)
    }

    pub fn resent(&self) -> u64 {
        self.list.iter().map(Output::resent).sum()
    }

    /// The outputs that lead to tasks, each with its task.
    pub fn receivers(&self) -> impl Iterator<Item = (usize, TaskId)> + '_ {
        let receivers = self.receivers.iter().enumerate();
        receivers.filter_map(|(i, to)| Some((i, (*to)?)))
    }

    /// The tasks that the routing in force chooses from.
    pub fn active(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.active.iter().filter_map(|index| self.receivers[*index])
    }

    /// Makes the outputs that a base names, and routes as it says: the plan may know of that version only later.
    pub fn restore(&mut self, base: &Base) {
        for task in &base.receivers {
            self.open(*task);
        }
        if !base.active.is_empty() {
            self.change(&base.active);
        }
    }

    pub fn aside_index(&self) -> Option<usize> {
        self.aside
    }

    pub fn aside(&mut self) -> Option<&mut Output> {
        self.aside.and_then(|i| self.list.get_mut(i))
    }

    /// They hold as much as they may, and nobody waits for more before they can go on.
    pub fn are_full(&self, window: usize) -> bool {
        let kept = || self.list.iter().map(Output::kept_bytes);
        let full = kept().any(|bytes| bytes >= window) || kept().sum::<usize>() >= FULL_WINDOWS * window;
        full && (Mutant::FullWindow.is_on() || !self.list.iter().any(Output::is_behind))
    }

    /// Where what is emitted for order record `pos` goes.
    pub fn router<'a>(
        &'a mut self,
        tuples_out: &'a mut u64,
        lossy: &'a mut u64,
        pos: u64,
        born_us: u64,
        config: &Config,
    ) -> Router<'a> {
        let (active, owners) = (&self.active, self.owners.as_ref());
        Router::new(
            &mut self.list,
            active,
            owners,
            tuples_out,
            lossy,
            pos,
            born_us,
            config,
        )
    }

    // --- what is open ---------------------------------------------------------------------------------------------

    pub fn has_open(&self) -> bool {
        self.list.iter().any(|o| o.open_bytes() > 0)
    }

    /// Closes what is open into chunks that depend on order record `pos`.
    pub fn close(&mut self, pos: u64) {
        self.list.iter_mut().for_each(|o| o.close(pos));
        self.open_since = None;
    }

    /// Closes what has been open for the linger. `waits`: the next append to the log closes it anyway.
    pub fn close_lingering(&mut self, now: Time, linger: Duration, waits: bool, pos: u64) {
        if waits || !self.has_open() {
            self.open_since = None;
            return;
        }
        let since = *self.open_since.get_or_insert(now);
        if now.since(since) >= linger {
            self.close(pos);
        }
    }

    /// When the linger is over.
    pub fn deadline(&self, linger: Duration) -> Option<Time> {
        self.open_since.map(|since| since + linger)
    }

    // --- what leaves ----------------------------------------------------------------------------------------------

    /// Everything that may leave does, given that order records up to `durable` are in the log. How many tuples the last piece
    /// holds, if there is one.
    pub fn release(&mut self, durable: u64, effects: &mut Vec<Effect>) -> Option<u64> {
        let mut left = None;
        for (output, it) in self.list.iter_mut().enumerate() {
            while let Some(chunk) = it.next_chunk(durable) {
                left = Some(chunk.tuples);
                effects.push(match it.is_destination() {
                    true => Effect::AppendOutput {
                        output,
                        bytes: chunk.payload,
                    },
                    false => Effect::SendFrame {
                        output,
                        frame: chunk.payload,
                    },
                });
            }
        }
        left
    }

    /// Units below `upto` have arrived. Files say what is in them now.
    pub fn acknowledge(&mut self, output: usize, upto: u64, effects: &mut Vec<Effect>) {
        let Some(it) = self.list.get_mut(output) else {
            return;
        };
        let is_file = it.is_destination();
        it.acknowledge(upto, |chunk| {
            if is_file {
                effects.push(Effect::Delivered {
                    output,
                    tuples: chunk.tuples,
                    born_us: chunk.born_us,
                });
            }
        });
    }

    /// What was put out since `emitted`, for the log, under the order record that is at hand.
    pub fn productions<'a>(&'a self, emitted: &'a [u64]) -> impl Iterator<Item = Record> + 'a {
        let outputs = self.list.iter().zip(emitted).enumerate();
        outputs.flat_map(|(index, (output, before))| {
            output.closed_since(*before).map(move |chunk| Record::Production {
                pos: chunk.pos,
                output: index as u16,
                start: chunk.start,
                end: chunk.end,
                tuples: chunk.tuples,
                born_us: chunk.born_us,
                payload: Bytes::clone(&chunk.payload),
            })
        })
    }

    // --- routing --------------------------------------------------------------------------------------------------

    /// A later version of the next stage's routing, unless it is known. `now`: the version in force.
    pub fn announce(&mut self, route: Route, now: u32) {
        let newest = self.coming.back().map_or(now, |r| r.version);
        if route.version > newest {
            self.coming.push_back(route);
        }
    }

    /// The next version of the routing, if there is one that is not in force.
    pub fn next_route(&mut self, now: u32) -> Option<&Route> {
        self.coming.retain(|r| r.version > now);
        self.coming.front()
    }

    pub fn awaits_route(&self) -> bool {
        !self.coming.is_empty()
    }

    /// What receivers had acknowledged, by output, of outputs that are made again later.
    pub fn remember(&mut self, acked: &[u64]) {
        self.acked = acked.to_vec();
    }

    /// Makes outputs for those who are new, and says which outputs are no more and which are new.
    fn change(&mut self, tasks: &[TaskId]) -> (Vec<usize>, Vec<usize>) {
        let before = std::mem::take(&mut self.active);
        let known = self.list.len();
        for task in tasks {
            let index = self.open(*task);
            self.active.push(index);
        }
        let added = (known..self.list.len()).collect();
        if self.owners.is_some() {
            self.owners = Some(Owners::new(tasks));
        }
        let mut removed = before;
        removed.retain(|index| !self.active.contains(index));
        (removed, added)
    }

    /// The output that leads to the task.
    pub fn find(&self, task: TaskId) -> Option<usize> {
        self.receivers.iter().position(|to| to == &Some(task))
    }

    /// The same, made if there is none.
    pub fn open(&mut self, task: TaskId) -> usize {
        self.find(task).unwrap_or_else(|| {
            let mut output = Output::channel(0);
            if let Some(acked) = self.acked.get(self.list.len()) {
                output.acknowledge(*acked, |_| {});
            }
            self.list.push(output);
            self.receivers.push(Some(task));
            self.list.len() - 1
        })
    }

    /// A version that was in force before this process: only the outputs are made.
    pub fn restore_route(&mut self, tasks: &[TaskId]) {
        self.change(tasks);
    }

    /// Puts a version in force, with what is at hand at order record `pos`: who is taken out gets an end mark. When all has ended
    /// (`done`), who is taken out has had it, and may be gone; then who comes in gets one, and no state need move: no tuple follows.
    pub fn reroute(&mut self, route: &Route, pos: u64, done: bool) {
        let (removed, added) = self.change(&route.tasks);
        if self.owners.is_some() && !done {
            for index in self.active.iter().chain(&removed) {
                self.list[*index].mark(route, pos);
            }
        }
        let ending = if done { added } else { removed };
        for index in ending {
            self.list[index].end(pos);
        }
    }

    /// End marks for all receivers.
    pub fn end(&mut self, pos: u64) {
        for index in &self.active {
            self.list[*index].end(pos);
        }
    }

    /// A mark of this task's own stage's routing, for a task that keys were handed over to.
    pub fn mark(&mut self, task: TaskId, route: &Route, pos: u64) {
        let index = self.open(task);
        self.list[index].mark(route, pos);
    }

    /// Outputs to those who were taken out that had not all arrived, where that was noted.
    pub fn owed<'a>(&'a self, acked: &'a [u64]) -> impl Iterator<Item = usize> + 'a {
        let removed = |i: &usize| self.receivers[*i].is_some() && !self.active.contains(i);
        let known = 0..self.list.len().min(acked.len());
        known
            .filter(removed)
            .filter(|i| acked[*i] < self.list[*i].emitted())
    }

    /// Those who were taken out have all there is by now, and `noted` does not say so.
    pub fn have_news_for(&self, noted: &[u64]) -> bool {
        let mut owed = self.owed(noted).peekable();
        owed.peek().is_some() && owed.all(|i| self.list[i].acked() >= self.list[i].emitted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Standing;
    use ops::Emit;

    const TO: [TaskId; 3] = [
        TaskId { stage: 1, index: 0 },
        TaskId { stage: 1, index: 1 },
        TaskId { stage: 1, index: 2 },
    ];

    fn to(tasks: &[TaskId]) -> Outputs {
        let neighbours = Neighbours {
            downstream: tasks.to_vec(),
            ..Neighbours::default()
        };
        Outputs::new(&neighbours, false)
    }

    fn emit(outputs: &mut Outputs, many: u64, pos: u64) {
        let (config, mut tuples_out, mut lossy) = (Config::for_tests(), 0, 0);
        let mut router = outputs.router(&mut tuples_out, &mut lossy, pos, 0, &config);
        (0..many).for_each(|n| router.emit(n.to_string().as_bytes(), b"value"));
    }

    #[test]
    fn an_output_keeps_its_index_when_the_routing_changes() {
        let mut outputs = to(&TO[..2]);
        let route = |version, tasks: &[TaskId]| Route {
            version,
            tasks: tasks.to_vec(),
        };
        outputs.reroute(&route(1, &TO[1..]), 1, false);
        let known: Vec<_> = outputs.receivers().collect();
        assert_eq!(known, [(0, TO[0]), (1, TO[1]), (2, TO[2])]);
        assert_eq!(outputs.emitted(), [1, 0, 0], "an end mark for the one taken out");
        outputs.reroute(&route(2, &TO), 2, false);
        assert_eq!(outputs.len(), 3);
    }

    #[test]
    fn a_version_that_is_known_is_passed_over() {
        let mut outputs = to(&TO[..1]);
        for version in [1, 2, 1, 2] {
            let tasks = TO[..version].to_vec();
            outputs.announce(
                Route {
                    version: version as u32,
                    tasks,
                },
                0,
            );
        }
        assert_eq!(outputs.next_route(0).map(|r| r.version), Some(1));
        assert_eq!(outputs.next_route(1).map(|r| r.version), Some(2));
        assert!(outputs.next_route(2).is_none() && !outputs.awaits_route());
    }

    #[test]
    fn all_windows_together_are_bounded() {
        let mut outputs = to(&TO);
        emit(&mut outputs, 60, 1);
        let most = outputs.iter().map(Output::kept_bytes).max().unwrap();
        assert!(!outputs.are_full(3 * most) && outputs.are_full(most));
        let all: usize = outputs.iter().map(Output::kept_bytes).sum();
        assert!(outputs.are_full(all / FULL_WINDOWS));
    }

    #[test]
    fn a_receiver_that_lives_through_its_log_opens_a_full_window() {
        let mut outputs = to(&TO[..1]);
        emit(&mut outputs, 20, 1);
        assert!(outputs.are_full(10));
        let needs = Standing { have: 0, needs: 30 };
        outputs.get_mut(0).unwrap().connect(needs);
        assert!(!outputs.are_full(10));
        emit(&mut outputs, 10, 2);
        assert!(outputs.are_full(10), "it has what it needs");
    }

    #[test]
    fn what_is_open_leaves_after_the_linger() {
        let (mut outputs, mut effects) = (to(&TO[..1]), vec![]);
        outputs.get_mut(0).unwrap().connect(Standing::at(0));
        emit(&mut outputs, 1, 1);
        let (began, linger) = (Time::from_millis(1000), Duration::from_millis(3));
        outputs.close_lingering(began, linger, false, 1);
        assert_eq!(outputs.deadline(linger), Some(began + linger));
        assert_eq!(outputs.release(1, &mut effects), None);
        outputs.close_lingering(began + linger, linger, false, 1);
        assert_eq!((outputs.deadline(linger), outputs.has_open()), (None, false));
        assert_eq!(outputs.release(1, &mut effects), Some(1));
        assert!(matches!(effects[..], [Effect::SendFrame { output: 0, .. }]));
    }
}
