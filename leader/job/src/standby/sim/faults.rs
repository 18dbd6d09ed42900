//! What goes wrong.

use super::*;

impl World {
    pub(super) fn fault(&mut self) {
        let pids: Vec<Pid> = self.processes.keys().copied().collect();
        let leads = |p: &Process| matches!(p.role, Role::Leads { .. });
        let leader = self.processes.iter().find(|(_, p)| leads(p)).map(|(pid, _)| *pid);
        if self.orderly {
            let ready = leader.is_some_and(|pid| match &self.processes[&pid].role {
                Role::Leads { standbys, .. } => standbys.ready().count() > 0,
                Role::Waits { .. } => false,
            });
            if let (Some(pid), true) = (leader, ready) {
                self.deaths += 1;
                self.say(format_args!("kill {pid}"));
                self.exit(pid);
            }
            return;
        }
        let any = pids.get(self.below(pids.len() as u64) as usize).copied();
        let node = self.below(self.names.len() as u64) as usize;
        let other = self.below(self.names.len() as u64) as usize;
        match (self.below(10), leader, any) {
            (0..=1, Some(pid), _) | (2..=3, _, Some(pid)) => {
                self.deaths += 1;
                self.say(format_args!("kill {pid}"));
                self.exit(pid);
            }
            (4, _, Some(pid)) => {
                self.say(format_args!("stop {pid}"));
                if let Some(process) = self.processes.get_mut(&pid) {
                    process.stopped = true;
                }
                let until = 500 + self.below(9_000);
                self.at(until, Ev::Go(pid));
            }
            (5..=6, ..) => self.node_down(node),
            (7, ..) => {
                self.say(format_args!("cut {node} {other}"));
                self.cuts.insert((node, other));
                if self.below(2) == 0 {
                    self.cuts.insert((other, node));
                }
                let until = 1_000 + self.below(8_000);
                self.at(until, Ev::Heal);
            }
            (8, ..) => {
                self.say(format_args!("starve {node}"));
                self.starved.insert(node);
                let until = 1_000 + self.below(8_000);
                self.at(until, Ev::Heal);
            }
            (9, ..) => {
                // A false accusation.
                self.at(0, Ev::Member { node, alive: false });
                self.at(2_000, Ev::Member { node, alive: true });
            }
            _ => {}
        }
    }

    /// A pulled plug closes no connection.
    pub(super) fn node_down(&mut self, node: usize) {
        if self.down.len() + 1 >= self.names.len() || !self.down.insert(node) {
            return;
        }
        self.say(format_args!("node {node} is down"));
        let found = 1_000 + self.below(2_000);
        self.at(found, Ev::Member { node, alive: false });
        let back = 4_000 + self.below(9_000);
        self.at(back, Ev::NodeUp(node));
        let on_it = self.processes.iter().filter(|(_, p)| p.node == node);
        for pid in on_it.map(|(pid, _)| *pid).collect::<Vec<_>>() {
            self.processes.remove(&pid);
        }
    }
}
