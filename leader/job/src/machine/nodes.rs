//! Where tasks may run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::clock::Time;
use common::ids::{NodeName, TaskId};

use super::task::Task;

/// How long a job waits for a node to come back when none is left.
pub const NO_NODE_WITHIN: Duration = Duration::from_secs(30);
/// How long a node where a launch came to nothing is only used when there is no other.
const UNREACHABLE_FOR: Duration = Duration::from_secs(30);

pub(super) struct Nodes {
    /// In the cluster file's order.
    all: Vec<NodeName>,
    failed: BTreeSet<NodeName>,
    /// Where a launch came to nothing, and when: membership may not have noticed, or may be out of this leader's sight.
    unreachable: BTreeMap<NodeName, Time>,
    none_since: Option<Time>,
}

impl Nodes {
    pub fn new(all: Vec<NodeName>, failed: BTreeSet<NodeName>) -> Self {
        Self {
            all,
            failed,
            unreachable: BTreeMap::new(),
            none_since: None,
        }
    }

    pub fn first(&self) -> Option<&NodeName> {
        self.all.first()
    }

    pub fn contains(&self, node: &NodeName) -> bool {
        self.all.contains(node)
    }

    pub fn has_failed(&self, node: &NodeName) -> bool {
        self.failed.contains(node)
    }

    /// False when that was known.
    pub fn fail(&mut self, node: &NodeName) -> bool {
        self.failed.insert(node.clone())
    }

    /// False when it had not failed.
    pub fn revive(&mut self, node: &NodeName) -> bool {
        let had_failed = self.failed.remove(node);
        if had_failed {
            self.unreachable.remove(node);
        }
        had_failed
    }

    pub fn note_unreachable(&mut self, now: Time, node: &NodeName) {
        self.unreachable.insert(node.clone(), now);
    }

    /// A process has registered from there.
    pub fn note_reached(&mut self, node: &NodeName) {
        self.unreachable.remove(node);
    }

    /// No node was found: true when that has lasted too long.
    pub fn wait_for_one(&mut self, now: Time) -> bool {
        let since = *self.none_since.get_or_insert(now);
        now.since(since) >= NO_NODE_WITHIN
    }

    pub fn note_found(&mut self) {
        self.none_since = None;
    }

    /// The live node with the least `load`; one that answers, and where this task has not just failed, if there is one.
    pub fn choose(
        &self,
        now: Time,
        id: TaskId,
        task: Option<&Task>,
        load: impl Fn(&NodeName) -> usize,
    ) -> Option<NodeName> {
        let live = self.all.iter().filter(|node| !self.has_failed(node));
        let best = live.enumerate().min_by_key(|(i, node)| {
            let (avoided, last) =
                task.map_or((false, false), |t| (t.avoid.contains(*node), t.node == **node));
            let unreachable = self.unreachable.get(*node);
            (
                unreachable.is_some_and(|at| now.since(*at) < UNREACHABLE_FOR),
                avoided,
                last && avoided,
                load(node),
                (i + self.all.len() - usize::from(id.index) % self.all.len()) % self.all.len(),
            )
        });
        best.map(|(_, node)| node.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<NodeName> {
        (1..=n).map(|i| NodeName::new(format!("n{i}")).unwrap()).collect()
    }

    fn at(s: u64) -> Time {
        Time::from_millis(1000 * s)
    }

    #[test]
    fn the_least_loaded_live_node_that_answers_is_chosen() {
        let all = names(3);
        let mut nodes = Nodes::new(all.clone(), BTreeSet::new());
        let id = TaskId::new(1, 0);
        let load = |node: &NodeName| 3 - usize::from(node.as_str().as_bytes()[1] - b'0');
        let choose = |nodes: &Nodes, s| nodes.choose(at(s), id, None, load);
        assert_eq!(choose(&nodes, 1), Some(all[2].clone()));
        nodes.note_unreachable(at(1), &all[2]);
        assert_eq!(choose(&nodes, 2), Some(all[1].clone()));
        // That is not held against it for ever, nor when it has answered.
        assert_eq!(choose(&nodes, 40), Some(all[2].clone()));
        nodes.note_reached(&all[2]);
        assert_eq!(choose(&nodes, 2), Some(all[2].clone()));
        // Better one that does not answer than one that is down.
        assert!(nodes.fail(&all[0]) && nodes.fail(&all[1]) && !nodes.fail(&all[1]));
        nodes.note_unreachable(at(2), &all[2]);
        assert_eq!(choose(&nodes, 3), Some(all[2].clone()));
        assert!(nodes.fail(&all[2]) && choose(&nodes, 3).is_none());
        assert!(nodes.revive(&all[1]) && !nodes.revive(&all[1]));
        assert_eq!(choose(&nodes, 3), Some(all[1].clone()));
    }

    #[test]
    fn a_task_comes_back_where_it_failed_only_when_there_is_no_other() {
        let all = names(2);
        let nodes = Nodes::new(all.clone(), BTreeSet::new());
        let mut task = Task::new(TaskId::new(1, 0), all[0].clone());
        task.avoid.insert(all[0].clone());
        assert_eq!(
            nodes.choose(at(1), task.id, Some(&task), |_| 0),
            Some(all[1].clone())
        );
        task.avoid.insert(all[1].clone());
        assert_eq!(
            nodes.choose(at(1), task.id, Some(&task), |_| 0),
            Some(all[1].clone())
        );
    }

    #[test]
    fn a_job_without_nodes_waits_so_long() {
        let mut nodes = Nodes::new(names(1), BTreeSet::new());
        assert!(!nodes.wait_for_one(at(1)) && !nodes.wait_for_one(at(30)) && nodes.wait_for_one(at(31)));
        nodes.note_found();
        assert!(!nodes.wait_for_one(at(32)));
    }
}
