//! What happens in the simulated cluster, and what the machines want done.

use super::*;

impl World {
    pub(super) fn event(&mut self, ev: Ev) {
        // Who is stopped does nothing until it goes on.
        let whose = match &ev {
            Ev::Tick(pid) | Ev::Work(pid) | Ev::ToLeader(pid, _) | Ev::ToStandby(pid, ..) => Some(*pid),
            Ev::Dialled(pid) | Ev::Unreachable(pid) | Ev::Read(pid) | Ev::Fence(pid) => Some(*pid),
            _ => None,
        };
        if let Some(pid) = whose {
            match self.processes.get(&pid) {
                None => return,
                Some(process) if process.stopped => return self.at(300, ev),
                Some(_) => {}
            }
        }
        match ev {
            Ev::Tick(pid) => {
                self.at(50, Ev::Tick(pid));
                match self.processes[&pid].role {
                    Role::Leads { .. } => self.give_leader(pid, StandbysInput::Tick),
                    Role::Waits { .. } => self.give_standby(pid, StandbyInput::Tick),
                }
            }
            Ev::Work(pid) => self.work(pid),
            Ev::Start { node, by } => self.start(node, by),
            Ev::ToLeader(pid, input) => self.give_leader(pid, input),
            Ev::ToStandby(pid, conn, input) => {
                if self.processes[&pid].conn == Some(conn) {
                    if let StandbyInput::Closed = input
                        && let Some(process) = self.processes.get_mut(&pid)
                    {
                        process.conn = None;
                    }
                    self.give_standby(pid, input);
                }
            }
            Ev::Dialled(pid) => self.dialled(pid),
            Ev::Unreachable(pid) => self.give_standby(pid, StandbyInput::Unreachable),
            Ev::Read(pid) => {
                let answers = !self.starved.contains(&self.processes[&pid].node);
                let input = match answers {
                    true => StandbyInput::Read(JournalFacts::of(&self.journal)),
                    false => StandbyInput::Failed,
                };
                self.give_standby(pid, input);
            }
            Ev::Fence(pid) => {
                let Some(process) = self.processes.get_mut(&pid) else {
                    return;
                };
                let input = match (self.starved.contains(&process.node), &mut process.role) {
                    (false, Role::Waits { fenced, .. }) => {
                        self.fence += 1;
                        *fenced = Some(self.fence);
                        StandbyInput::Fenced(JournalFacts::of(&self.journal))
                    }
                    _ => StandbyInput::Failed,
                };
                self.give_standby(pid, input);
            }
            Ev::Member { node, alive } => {
                let name = self.names[node].clone();
                for pid in self.processes.keys().copied().collect::<Vec<_>>() {
                    let Some(process) = self.processes.get(&pid) else {
                        continue;
                    };
                    match &process.role {
                        Role::Leads { .. } if alive => {
                            self.give_leader(pid, StandbysInput::NodeAlive(name.clone()))
                        }
                        Role::Leads { .. } => self.give_leader(pid, StandbysInput::NodeFailed(name.clone())),
                        Role::Waits { leader, .. } if self.homes[leader] == node => {
                            let told = if alive {
                                StandbyInput::NodeAlive
                            } else {
                                StandbyInput::NodeFailed
                            };
                            self.give_standby(pid, told);
                        }
                        Role::Waits { .. } => {}
                    }
                }
            }
            Ev::Fault => {
                if self.now < CALM_FROM {
                    self.fault();
                    let next = if self.orderly {
                        10_000
                    } else {
                        200 + self.below(5_000)
                    };
                    self.at(next, Ev::Fault);
                }
            }
            Ev::Go(pid) => {
                if let Some(process) = self.processes.get_mut(&pid) {
                    process.stopped = false;
                }
            }
            Ev::NodeUp(node) => {
                self.down.remove(&node);
                self.at(300, Ev::Member { node, alive: true });
            }
            Ev::Heal => {
                self.cuts.clear();
                self.starved.clear();
            }
            Ev::EndJob => {
                let leads = |p: &Process| matches!(p.role, Role::Leads { .. });
                let pid = self.processes.iter().find(|(_, p)| leads(p)).map(|(pid, _)| *pid);
                if let Some(pid) = pid {
                    self.end_job(pid);
                }
            }
        }
    }

    pub(super) fn end_job(&mut self, pid: Pid) {
        self.say(format_args!("{pid} ends the job"));
        self.write(Entry::End {
            ok: true,
            why: String::new(),
        });
        self.ended = true;
        self.give_leader(
            pid,
            StandbysInput::Over {
                why: "the job has ended".into(),
            },
        );
        // At any moment from then on it may be gone.
        self.exit(pid);
    }

    pub(super) fn work(&mut self, pid: Pid) {
        let next = 100 + self.below(900);
        self.at(next, Ev::Work(pid));
        let process = &self.processes[&pid];
        let Role::Leads { fence, base, .. } = process.role else {
            return;
        };
        if self.starved.contains(&process.node) {
            return;
        }
        if fence < self.fence {
            self.say(format_args!("{pid} is refused by the journal"));
            return self.exit(pid);
        }
        let node = self.names[process.node].clone();
        let launch = Entry::Launch {
            task: TaskId::new(0, 0),
            epoch: Epoch(base.0 + 1),
            node,
        };
        self.write(launch);
        if !self.orderly && self.now < CALM_FROM && self.below(400) == 0 {
            self.end_job(pid);
        }
    }

    pub(super) fn start(&mut self, node: usize, by: Pid) {
        let Some(starter) = self.processes.get(&by) else {
            return;
        };
        let Role::Leads { base, .. } = starter.role else {
            return;
        };
        if !self.hears(node, starter.node) {
            let why = "no SSH".into();
            let node = self.names[node].clone();
            return self.at(1_000, Ev::ToLeader(by, StandbysInput::StartFailed { node, why }));
        }
        self.pids += 1;
        let pid = self.pids;
        self.homes.insert(pid, node);
        let role = Role::Waits {
            machine: Standby::new(self.now, LEASE, base),
            leader: by,
            fenced: None,
        };
        self.processes.insert(
            pid,
            Process {
                node,
                stopped: false,
                role,
                conn: None,
            },
        );
        self.say(format_args!("{pid} stands by {by} on {node}"));
        self.at(0, Ev::Tick(pid));
    }

    pub(super) fn dialled(&mut self, pid: Pid) {
        let process = &self.processes[&pid];
        let Role::Waits { leader, .. } = process.role else {
            return;
        };
        let there = self.homes[&leader];
        if !self.hears(there, process.node) || !self.hears(process.node, there) {
            return self.at(3_000, Ev::Unreachable(pid));
        }
        match self.processes.get(&leader) {
            None => return self.give_standby(pid, StandbyInput::Refused),
            Some(leader) if leader.stopped => return self.at(3_000, Ev::Unreachable(pid)),
            Some(_) => {}
        }
        self.conns += 1;
        let conn = ConnId(self.conns);
        self.links.insert(conn, (leader, pid));
        let name = self.names[process.node].clone();
        if let Some(process) = self.processes.get_mut(&pid) {
            process.conn = Some(conn);
        }
        self.give_standby(pid, StandbyInput::Connected);
        self.at(
            1,
            Ev::ToLeader(
                leader,
                StandbysInput::Registered {
                    conn,
                    node: name,
                    pid,
                },
            ),
        );
    }

    pub(super) fn give_leader(&mut self, pid: Pid, input: StandbysInput) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        let (here, mut out) = (process.node, vec![]);
        let Role::Leads { standbys, .. } = &mut process.role else {
            return;
        };
        standbys.handle(self.now, input, &mut out);
        for effect in out {
            if !matches!(
                effect,
                StandbysEffect::Tell {
                    message: ToStandby::Beat { .. },
                    ..
                }
            ) {
                self.say(format_args!("{pid} -> {effect:?}"));
            }
            match effect {
                StandbysEffect::Start { node } => {
                    let node = self.names.iter().position(|n| *n == node).unwrap();
                    assert!(!self.orderly || node != here, "beside its leader");
                    let delay = 50 + self.below(700);
                    self.at(delay, Ev::Start { node, by: pid });
                }
                StandbysEffect::Tell { conn, message } => self.tell(conn, here, StandbyInput::Heard(message)),
                StandbysEffect::Close { conn } => {
                    self.tell(conn, here, StandbyInput::Closed);
                    self.links.remove(&conn);
                }
                StandbysEffect::Event(_) => {}
            }
        }
    }

    pub(super) fn tell(&mut self, conn: ConnId, from: usize, input: StandbyInput) {
        let Some((_, to)) = self.links.get(&conn).copied() else {
            return;
        };
        if let Some(there) = self.node(to)
            && self.hears(there, from)
        {
            // In order: a connection.
            self.at(2, Ev::ToStandby(to, conn, input));
        }
    }

    pub(super) fn give_standby(&mut self, pid: Pid, input: StandbyInput) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        let (here, conn, mut out) = (process.node, process.conn, vec![]);
        let Role::Waits { machine, .. } = &mut process.role else {
            return;
        };
        machine.handle(self.now, input, &mut out);
        for effect in out {
            if !matches!(effect, StandbyEffect::Beat { .. } | StandbyEffect::Dial) {
                self.say(format_args!("{pid} -> {effect:?}"));
            }
            match effect {
                StandbyEffect::Dial => self.at(1, Ev::Dialled(pid)),
                StandbyEffect::Hang => {
                    if let Some(process) = self.processes.get_mut(&pid) {
                        process.conn = None;
                    }
                    self.close(conn, here);
                }
                StandbyEffect::Beat { late_ms } => {
                    let beat = FromStandby::Beat { late_ms };
                    let leader = conn.and_then(|c| self.links.get(&c)).map(|link| link.0);
                    if let (Some(conn), Some(leader), FromStandby::Beat { late_ms }) = (conn, leader, beat)
                        && let Some(there) = self.node(leader)
                        && self.hears(there, here)
                    {
                        self.at(2, Ev::ToLeader(leader, StandbysInput::Beat { conn, late_ms }));
                    }
                }
                StandbyEffect::Read => {
                    let delay = 5 + self.below(100);
                    self.at(delay, Ev::Read(pid));
                }
                StandbyEffect::Fence => {
                    let delay = 5 + self.below(if self.orderly { 100 } else { 2_000 });
                    self.at(delay, Ev::Fence(pid));
                }
                StandbyEffect::Lead { .. } => self.takes_over(pid),
                StandbyEffect::End { .. } => self.exit(pid),
            }
        }
    }

    pub(super) fn takes_over(&mut self, pid: Pid) {
        let (seed, trace) = (self.seed, &self.trace);
        let Role::Waits { fenced, .. } = self.processes[&pid].role else {
            unreachable!()
        };
        let Some(fence) = fenced else {
            panic!("seed {seed}: {pid} leads without the fence\n{trace}")
        };
        let facts = JournalFacts::of(&self.journal);
        assert!(
            !facts.ended,
            "seed {seed}: {pid} takes up a job that has ended\n{trace}"
        );
        self.takeovers += 1;
        let node = self.processes[&pid].node;
        self.exit(pid);
        if fence == self.fence {
            self.take_up(node, fence);
        }
        // Else another was quicker: its first write is refused.
    }

    /// A connection's other end hears of its end, if it can hear.
    pub(super) fn close(&mut self, conn: Option<ConnId>, here: usize) {
        let Some(conn) = conn else { return };
        let Some((leader, _)) = self.links.remove(&conn) else {
            return;
        };
        if let Some(there) = self.node(leader)
            && self.hears(there, here)
        {
            self.at(3, Ev::ToLeader(leader, StandbysInput::Closed { conn }));
        }
    }

    /// The process is gone; its connections close.
    pub(super) fn exit(&mut self, pid: Pid) {
        let Some(process) = self.processes.remove(&pid) else {
            return;
        };
        self.close(process.conn, process.node);
        let own = self.links.iter().filter(|(_, (leader, _))| *leader == pid);
        for conn in own.map(|(conn, _)| *conn).collect::<Vec<_>>() {
            self.tell(conn, process.node, StandbyInput::Closed);
            self.links.remove(&conn);
        }
    }
}
