//! What workers say.

use std::net::SocketAddr;

use common::clock::Time;
use common::ids::{Epoch, TaskId};
use protocol::control::{Peer, TaskPlan, ToLeader, ToWorker};

use super::mutants::Mutant;
use super::{ConnId, Effect, Job, JobEvent, State};

impl Job {
    pub(super) fn registered(
        &mut self,
        now: Time,
        conn: ConnId,
        (id, epoch): (TaskId, Epoch),
        pid: u32,
        addr: SocketAddr,
        out: &mut Vec<Effect>,
    ) {
        self.processes.note_pid(id, epoch, pid);
        let refusal = match self.tasks.get(id) {
            _ if self.over => {
                out.push(Effect::Send {
                    conn,
                    message: ToWorker::Finish,
                });
                return;
            }
            None => format!("this job has no task {id}"),
            Some(_) if Mutant::AdmitAnybody.is_on() => String::new(),
            Some(t) if epoch < t.epoch => {
                format!("{id} was replaced: its newest process is epoch {}", t.epoch)
            }
            Some(t) if epoch > t.epoch => format!("{id} was never started under epoch {epoch}"),
            Some(t) if !matches!(t.state, State::Launching { .. }) => {
                format!("epoch {epoch} of {id} has registered before, or was given up")
            }
            Some(_) => String::new(),
        };
        if !refusal.is_empty() {
            out.push(Effect::Send {
                conn,
                message: ToWorker::Refused { why: refusal },
            });
            out.push(Effect::Close { conn });
            return;
        }
        if let Some(task) = self.tasks.attach(now, conn, id, pid, addr) {
            self.nodes.note_reached(&task.node);
        }
        let plan = Box::new(self.next_plan(id, epoch));
        out.push(Effect::Send {
            conn,
            message: ToWorker::Plan(plan),
        });
        self.introduce(
            conn,
            id,
            Peer {
                task: id,
                epoch,
                addr,
            },
            out,
        );
    }

    /// What a new process must know, with what was learnt from its predecessors.
    fn next_plan(&mut self, id: TaskId, epoch: Epoch) -> TaskPlan {
        let mut plan = self.plan_now(id, epoch);
        self.shares.forget_one(id);
        if let Some(task) = self.tasks.get_mut(id) {
            task.is_careful = task.careful;
            plan.careful = task.careful;
            if !plan.exactly_once {
                plan.resume_from.clone_from(&task.arrived);
            }
        }
        plan
    }

    /// Senders dial: the new process hears where its receivers are, and its senders where it is.
    fn introduce(&self, conn: ConnId, id: TaskId, me: Peer, out: &mut Vec<Effect>) {
        let peer = |id: &TaskId| {
            let task = self.tasks.get(*id)?;
            task.conn()?;
            Some(Peer {
                task: *id,
                epoch: task.epoch,
                addr: task.addr?,
            })
        };
        // Where state moves, a stage's tasks send to each other.
        let peers = self.stages().peers(id);
        let receivers = self.plan.downstream(id).into_iter().chain(peers.iter().copied());
        let receivers: Vec<Peer> = receivers.filter_map(|t| peer(&t)).collect();
        if !receivers.is_empty() {
            out.push(Effect::Send {
                conn,
                message: ToWorker::Peers(receivers),
            });
        }
        for sender in self.plan.upstream(id).into_iter().chain(peers) {
            // One that is done may still have to repeat its end mark.
            if let Some(conn) = self.tasks.get(sender).and_then(|t| t.conn()) {
                out.push(Effect::Send {
                    conn,
                    message: ToWorker::Peers(vec![me.clone()]),
                });
            }
        }
    }

    pub(super) fn message(&mut self, now: Time, conn: ConnId, message: ToLeader, out: &mut Vec<Effect>) {
        // A connection that was given up may have had more on the way.
        let Some((id, epoch)) = self.tasks.owner(conn) else {
            return;
        };
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        task.last_heard = now;
        match message {
            ToLeader::Register { .. } => {}
            ToLeader::Started { replayed } => {
                if let State::Attached { started, .. } = &mut task.state {
                    *started = true;
                }
                let (node, pid) = (task.node.clone(), task.pid.unwrap_or(0));
                out.push(Effect::Event(JobEvent::Start {
                    task: id,
                    epoch,
                    node,
                    pid,
                    replayed,
                }));
                self.advance(now, out);
                if id.stage == 0 {
                    self.share(now, out);
                }
            }
            ToLeader::Beat(report) => {
                let before = (task.report.exhausted, task.report.idle);
                task.reported_at = now;
                if task.take_report(report) {
                    task.progress();
                }
                if before != (task.report.exhausted, task.report.idle) {
                    self.share(now, out);
                }
            }
            ToLeader::WideText { file, encoding } => {
                if self.tally.wide_files.insert(file.clone()) {
                    out.push(Effect::Event(JobEvent::WideText {
                        task: id,
                        file,
                        encoding,
                    }));
                }
            }
            ToLeader::Knows(tasks) => self.knows(now, id, &tasks, out),
            ToLeader::Done(report) => {
                task.take_report(report);
                if task.is_done() {
                    return;
                }
                task.progress();
                task.state = State::Done {
                    conn: Some(conn),
                    lost: None,
                };
                if !task.was_done {
                    task.was_done = true;
                    out.push(Effect::Event(JobEvent::End {
                        task: id,
                        epoch,
                        node: task.node.clone(),
                        pid: task.pid,
                        tuples_in: task.totals.tuples_in,
                        tuples_out: task.totals.tuples_out,
                    }));
                }
                self.advance(now, out);
                self.end_if_done(out);
            }
            ToLeader::Failed(failure) => self.operator_failed(now, id, epoch, failure, out),
        }
    }

    pub(super) fn conn_closed(&mut self, now: Time, conn: ConnId, out: &mut Vec<Effect>) {
        let Some(id) = self.tasks.detach(conn) else {
            return;
        };
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if self.over {
            return;
        }
        match task.state {
            State::Attached { conn: current, .. } if current == conn => {
                self.lost(now, id, "its process closed the connection", out);
            }
            State::Done {
                conn: Some(current), ..
            } if current == conn => {
                task.gone();
                task.state = State::Done {
                    conn: None,
                    lost: Some(now),
                };
            }
            _ => {}
        }
    }
}
