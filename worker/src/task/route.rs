//! Who the outputs go to, and how that changes while the task runs.
//!
//! Where the next stage keeps state that moves with its routing, each change puts a mark into every channel, those to tasks
//! that are new or out among them: what stands behind it goes by the new table (`handover.rs` is the receivers' side).
//!
//! A channel is an output for as long as the task lives: those of the routing that the task began with come first, then
//! the place for tuples set aside, then a channel for each task that was added, in the order of the versions. So an
//! output's index means the same in all its processes and cuts.

use protocol::control::Route;
use protocol::groups::Owners;

use super::*;

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
    /// This task's state does: who it is, and its own stage's routing as its first process had it.
    pub owned: Option<(TaskId, Route)>,
}

/// The outputs, and which of them are in use.
#[derive(Debug, Default)]
pub(super) struct Targets {
    /// Per output the task that it leads to; `None` for a stream into a file.
    of: Vec<Option<TaskId>>,
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
}

impl Targets {
    pub fn new(neighbours: &Neighbours, sets_aside: bool) -> (Self, Vec<Output>) {
        let mut outputs: Vec<Output> = match neighbours.is_last {
            true => vec![Output::destination(0)],
            false => neighbours.downstream.iter().map(|_| Output::channel(0)).collect(),
        };
        let mut of: Vec<Option<TaskId>> = match neighbours.is_last {
            true => vec![None],
            false => neighbours.downstream.iter().copied().map(Some).collect(),
        };
        let active = (0..of.len()).collect();
        let owners = (neighbours.marks && !neighbours.is_last).then(|| Owners::new(&neighbours.downstream));
        let mut aside = None;
        if sets_aside {
            aside = Some(of.len());
            of.push(None);
            outputs.push(Output::destination(0));
        }
        let targets = Self {
            of,
            active,
            owners,
            aside,
            coming: neighbours.routes.iter().cloned().collect(),
            acked: vec![],
        };
        (targets, outputs)
    }

    pub fn active(&self) -> &[usize] {
        &self.active
    }

    pub fn owners(&self) -> Option<&Owners> {
        self.owners.as_ref()
    }

    pub fn aside(&self) -> Option<usize> {
        self.aside
    }

    pub fn is_empty(&self) -> bool {
        self.coming.is_empty()
    }

    /// What receivers had acknowledged, by output, of outputs that are made again later.
    pub fn remember(&mut self, acked: &[u64]) {
        self.acked = acked.to_vec();
    }

    /// Makes outputs for those who are new, and says which outputs are no more and which are new.
    fn change(&mut self, tasks: &[TaskId], outputs: &mut Vec<Output>) -> (Vec<usize>, Vec<usize>) {
        let before = std::mem::take(&mut self.active);
        let known = outputs.len();
        for task in tasks {
            let index = self.open(*task, outputs);
            self.active.push(index);
        }
        let added = (known..outputs.len()).collect();
        if self.owners.is_some() {
            self.owners = Some(Owners::new(tasks));
        }
        let mut removed = before;
        removed.retain(|index| !self.active.contains(index));
        (removed, added)
    }

    /// The output that leads to the task.
    pub fn find(&self, task: TaskId) -> Option<usize> {
        self.of.iter().position(|of| of == &Some(task))
    }

    /// The same, made if there is none.
    pub fn open(&mut self, task: TaskId, outputs: &mut Vec<Output>) -> usize {
        self.find(task).unwrap_or_else(|| {
            let mut output = Output::channel(0);
            if let Some(acked) = self.acked.get(outputs.len()) {
                output.acknowledge(*acked, |_| {});
            }
            outputs.push(output);
            self.of.push(Some(task));
            outputs.len() - 1
        })
    }
}

impl Task {
    /// The outputs that lead to tasks, each with its task.
    pub fn targets(&self) -> impl Iterator<Item = (usize, TaskId)> + '_ {
        self.targets
            .of
            .iter()
            .enumerate()
            .filter_map(|(i, of)| Some((i, (*of)?)))
    }

    /// The output for tuples that are set aside.
    pub fn aside(&self) -> Option<usize> {
        self.targets.aside()
    }

    /// The next stage's routing has changed. Taken into account before anything else is consumed; a version that is known
    /// already is passed over.
    pub fn hear_route(&mut self, route: Route) {
        let newest = self.targets.coming.back().map_or(self.now.route, |r| r.version);
        if route.version > newest {
            self.targets.coming.push_back(route);
        }
    }

    /// More upstream tasks: this one does not finish before they have ended.
    pub fn hear_upstream(&mut self, tasks: &[TaskId]) {
        for task in tasks {
            let consumed = self.now.consumed.get(task).copied().unwrap_or(0);
            self.inboxes.entry(*task).or_insert_with(|| Inbox::new(consumed));
            self.ends.insert(*task);
        }
    }

    /// The next version of the routing, if there is one that is not in force.
    pub(super) fn next_route(&mut self) -> Option<Route> {
        let now = self.now.route;
        self.targets.coming.retain(|r| r.version > now);
        self.targets.coming.front().cloned()
    }

    /// Puts a version in force, with what is at hand at order record `pos`: who is out gets an end mark. When all has ended, who
    /// is out has had it, and may be gone; then who comes in gets one, and no state need move: no tuple follows.
    pub(super) fn reroute(&mut self, route: &Route, pos: u64) {
        let (removed, added) = self.targets.change(&route.tasks, &mut self.outputs);
        self.now.emitted.resize(self.outputs.len(), 0);
        if self.targets.owners().is_some() && !self.now.done {
            for index in self.targets.active.iter().chain(&removed) {
                self.outputs[*index].mark(route, pos);
            }
        }
        let ending = if self.now.done { added } else { removed };
        for index in ending {
            self.outputs[index].end(pos);
        }
    }

    /// The same for a version that was in force before this process: only the outputs are made.
    pub(super) fn rerouted(&mut self, tasks: &[TaskId]) {
        self.targets.change(tasks, &mut self.outputs);
    }

    /// The newest version that no restart falls behind: who is out by then is needed by this task no more.
    pub fn routed(&self) -> u32 {
        let owed = self.owed_at(&self.checkpoint.acked).next().is_some();
        self.checkpoint.route.saturating_sub(u32::from(owed))
    }

    /// Outputs to those who are out that had not all arrived, where that was noted.
    fn owed_at(&self, acked: &[u64]) -> impl Iterator<Item = usize> {
        let removed = |i: &usize| self.targets.of[*i].is_some() && !self.targets.active.contains(i);
        let known = 0..self.outputs.len().min(acked.len());
        known
            .filter(removed)
            .filter(|i| acked[*i] < self.outputs[*i].emitted())
    }

    /// Those who are out have all there is by now, and no checkpoint says so.
    pub(super) fn is_to_be_noted(&self) -> bool {
        let mut owed = self.owed_at(&self.noted).peekable();
        owed.peek().is_some() && owed.all(|i| self.outputs[i].acked() >= self.outputs[i].emitted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stage 1 is taken back to one task when its source has long ended: who is taken out may be gone, nobody would
    /// acknowledge a second end mark.
    #[test]
    fn who_has_ended_owes_nothing_to_a_receiver_that_is_taken_out() {
        let both = [TaskId::new(1, 0), TaskId::new(1, 1)];
        let neighbours = Neighbours {
            downstream: both.to_vec(),
            ..Neighbours::default()
        };
        let mut task = Task::recover(Config::for_tests(), &neighbours, &[]).unwrap();
        let now = Time::from_millis(1000);
        let store = |task: &mut Task| {
            while !task.take_records(now + CHECKPOINT_EVERY).is_empty() {
                task.logged(now, task.log_end());
            }
        };
        assert_eq!(task.next_work(), Some(Work::Source(None)));
        let done = |order| Done { order, bytes_in: 0 };
        task.complete(done(Order::Finish));
        for output in &mut task.outputs {
            output.acknowledge(1, |_| {});
        }
        store(&mut task);
        assert!(task.is_finished());

        let route = Route {
            version: 1,
            tasks: both[..1].to_vec(),
        };
        task.hear_route(route.clone());
        assert_eq!(task.next_work(), Some(Work::Route(route.clone())));
        let Route { version, tasks } = route;
        task.complete(done(Order::Route { version, tasks }));
        assert_eq!(task.next_work(), None);
        store(&mut task);
        assert!(task.is_finished());
        assert_eq!(task.routed(), 1);
    }
}
