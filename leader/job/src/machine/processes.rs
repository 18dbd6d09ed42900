//! Processes that were launched and whose end has not been seen: those of the present epochs, and those that were given up.

use std::collections::BTreeMap;
use std::time::Duration;

use common::clock::Time;
use common::ids::{Epoch, NodeName, TaskId};

use super::effects::Effect;
use super::nodes::Nodes;

/// A process that was given up while it may still live is killed after this; fencing keeps it harmless meanwhile.
pub const ZOMBIE_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    node: NodeName,
    pid: Option<u32>,
    /// When to kill it, for one that was given up.
    kill_at: Option<Time>,
    /// The launcher lost sight of it: its end will not be seen.
    out_of_sight: bool,
}

/// As many as were launched and not yet seen to end: each launch is answered by an end, or by the launcher's losing sight.
#[derive(Default)]
pub(super) struct Processes(BTreeMap<(TaskId, Epoch), Process>);

impl Processes {
    pub fn launch(&mut self, id: TaskId, epoch: Epoch, node: NodeName) {
        let process = Process {
            node,
            pid: None,
            kill_at: None,
            out_of_sight: false,
        };
        self.0.insert((id, epoch), process);
    }

    pub fn note_pid(&mut self, id: TaskId, epoch: Epoch, pid: u32) {
        if let Some(process) = self.0.get_mut(&(id, epoch)) {
            process.pid = Some(pid);
        }
    }

    pub fn give_up(&mut self, now: Time, id: TaskId, epoch: Epoch) {
        if let Some(process) = self.0.get_mut(&(id, epoch)) {
            process.kill_at = Some(now + ZOMBIE_AFTER);
        }
    }

    /// Its end was seen, or it never was: returns where it ran.
    pub fn remove(&mut self, id: TaskId, epoch: Epoch) -> Option<NodeName> {
        self.0.remove(&(id, epoch)).map(|process| process.node)
    }

    /// It may live or not: returns where it ran.
    pub fn lose_sight(&mut self, id: TaskId, epoch: Epoch) -> Option<NodeName> {
        let process = self.0.get_mut(&(id, epoch))?;
        process.out_of_sight = true;
        Some(process.node.clone())
    }

    /// Kills, once each, those that were given up long enough ago.
    pub fn kill_zombies(&mut self, now: Time, nodes: &Nodes, out: &mut Vec<Effect>) {
        for (&(task, epoch), process) in &mut self.0 {
            if process.kill_at.is_none_or(|at| now < at) {
                continue;
            }
            process.kill_at = None;
            if let Some(pid) = process.pid
                && !nodes.has_failed(&process.node)
            {
                let node = process.node.clone();
                out.push(Effect::Kill {
                    task,
                    epoch,
                    node,
                    pid,
                });
            }
        }
    }

    /// Those whose end will yet be seen, on nodes that are not known to be down.
    pub fn left(&self, nodes: &Nodes) -> Vec<(TaskId, Epoch, NodeName, Option<u32>)> {
        let there = self
            .0
            .iter()
            .filter(|(_, p)| !p.out_of_sight && !nodes.has_failed(&p.node));
        there
            .map(|(&(task, epoch), p)| (task, epoch, p.node.clone(), p.pid))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn one_that_was_given_up_is_killed_once_if_it_can_be() {
        let node = NodeName::new("n1").unwrap();
        let mut nodes = Nodes::new(vec![node.clone()], BTreeSet::new());
        let mut processes = Processes::default();
        let (id, now) = (TaskId::new(1, 0), Time::from_millis(1000));
        for epoch in 1..=3 {
            processes.launch(id, Epoch(epoch), node.clone());
        }
        processes.note_pid(id, Epoch(1), 7);
        processes.give_up(now, id, Epoch(1));
        // Nobody knows which process that is.
        processes.give_up(now, id, Epoch(2));
        let mut out = vec![];
        processes.kill_zombies(now, &nodes, &mut out);
        assert_eq!(out, []);
        for _ in 0..2 {
            processes.kill_zombies(now + ZOMBIE_AFTER, &nodes, &mut out);
        }
        let kill = Effect::Kill {
            task: id,
            epoch: Epoch(1),
            node: node.clone(),
            pid: 7,
        };
        assert_eq!(out, [kill]);
        assert_eq!(processes.lose_sight(id, Epoch(2)), Some(node.clone()));
        assert_eq!(processes.remove(id, Epoch(3)), Some(node.clone()));
        assert_eq!(processes.left(&nodes), [(id, Epoch(1), node.clone(), Some(7))]);
        nodes.fail(&node);
        assert_eq!(processes.left(&nodes), []);
    }
}
