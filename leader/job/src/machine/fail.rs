//! What to do when a process is gone, given up or never came.

use std::time::Duration;

use common::clock::Time;
use common::exit::Exit;
use common::ids::{Epoch, TaskId};
use protocol::control::Failure;

use super::{Effect, Job, JobEvent, State};

/// Consecutive launches of one task that end by themselves before they register.
const MOST_STRIKES: u32 = 8;
/// The same for launches of which nothing was heard: only after this long.
const STRIKES_OVER: Duration = Duration::from_secs(60);

/// A worker's exit codes when another process has its identity, and when it has lost its leader.
const NOBODYS_FAULT: [i32; 2] = [3, 4];

/// How long the next launch waits after so many failures in a row: the first replacement starts at once.
fn back_off(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        n => Duration::from_millis(100 << (n - 2).min(5)).min(Duration::from_secs(2)),
    }
}

impl Job {
    /// The newest process of a task is no more, or is given up: replace it. Of a done task, only while somebody may
    /// still want to hear from it.
    pub(super) fn lost(&mut self, now: Time, id: TaskId, why: &str, out: &mut Vec<Effect>) {
        let needed = self.stages().needed(id);
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        if self.over || matches!(task.state, State::Waiting { .. }) {
            return;
        }
        let (epoch, node, pid) = (task.epoch, task.node.clone(), task.pid);
        if let Some(conn) = task.conn() {
            self.tasks.detach(conn);
            out.push(Effect::Close { conn });
        }
        self.processes.give_up(now, id, epoch);
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        task.gone();
        // The operator is past what it failed at.
        if task.blame.progressed {
            task.careful = false;
        }
        if task.was_done && !needed {
            task.state = State::Done {
                conn: None,
                lost: Some(now),
            };
            self.end_if_done(out);
            return;
        }
        out.push(Effect::Event(JobEvent::Fail {
            task: id,
            epoch,
            node: node.clone(),
            pid,
            why: why.into(),
        }));
        task.failures += 1;
        task.avoid.insert(node);
        let delay = back_off(task.failures);
        task.state = State::Waiting { until: now + delay };
        if delay.is_zero() {
            self.launch(now, id, None, out);
        }
    }

    /// A launch came to nothing. Too many in a row and it is not bad luck: soon when the program itself gives up, later
    /// when nothing is heard of it, since nodes come back.
    pub(super) fn strike(&mut self, now: Time, id: TaskId, own: bool, why: String, out: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if !own {
            self.nodes.note_unreachable(now, &task.node);
        }
        task.strikes += 1;
        if task.strikes == 1 {
            task.first_strike = now;
        }
        if task.strikes >= MOST_STRIKES && (own || now.since(task.first_strike) >= STRIKES_OVER) {
            let (strikes, node) = (task.strikes, task.node.clone());
            self.give_up(
                format!("{id} could not be started {strikes} times in a row, last on node {node}: {why}"),
                out,
            );
            return;
        }
        self.lost(now, id, &why, out);
    }

    pub(super) fn launch_failed(
        &mut self,
        now: Time,
        id: TaskId,
        epoch: Epoch,
        why: String,
        out: &mut Vec<Effect>,
    ) {
        self.processes.remove(id, epoch);
        if self.over || !self.is_launching(id, epoch) {
            return;
        }
        self.strike(now, id, false, why, out);
    }

    fn is_launching(&self, id: TaskId, epoch: Epoch) -> bool {
        self.tasks
            .get(id)
            .is_some_and(|t| t.epoch == epoch && matches!(t.state, State::Launching { .. }))
    }

    pub(super) fn exited(
        &mut self,
        now: Time,
        id: TaskId,
        epoch: Epoch,
        exit: Exit,
        stderr: Vec<String>,
        out: &mut Vec<Effect>,
    ) {
        let known = match exit {
            Exit::Unknown(_) => self.processes.lose_sight(id, epoch),
            _ => self.processes.remove(id, epoch),
        };
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if self.over {
            return;
        }
        if !task.is_done()
            && let Some(node) = known
        {
            let how = exit.to_string();
            out.push(Effect::Event(JobEvent::Exit {
                task: id,
                epoch,
                node,
                how,
                stderr: stderr.clone(),
            }));
        }
        let launching = task.epoch == epoch && matches!(task.state, State::Launching { .. });
        // Its connection may still hold its last words; it closes by itself in a moment.
        if task.epoch == epoch
            && matches!(task.state, State::Attached { .. })
            && !matches!(exit, Exit::Unknown(_))
        {
            task.exited = Some(now);
        }
        match exit {
            Exit::Code(code) if launching => {
                let last = stderr.last().map_or(String::new(), |line| format!(": {line}"));
                self.strike(
                    now,
                    id,
                    true,
                    format!("its process exited with code {code} before it registered{last}"),
                    out,
                );
            }
            Exit::Code(code) if code != 0 && !NOBODYS_FAULT.contains(&code) => {
                let what = format!("its process exited with code {code}");
                self.blame(
                    now,
                    id,
                    epoch,
                    Failure {
                        what,
                        key: None,
                        unit: None,
                        stderr,
                        fatal: false,
                    },
                    out,
                );
            }
            Exit::Killed if launching => {
                self.lost(now, id, "its process was killed before it registered", out)
            }
            Exit::Unknown(why) if launching => self.strike(now, id, false, why, out),
            _ => {}
        }
    }

    pub(super) fn operator_failed(
        &mut self,
        now: Time,
        id: TaskId,
        epoch: Epoch,
        failure: Failure,
        out: &mut Vec<Effect>,
    ) {
        let why = failure.what.clone();
        self.blame(now, id, epoch, failure, out);
        if !self.over
            && self
                .tasks
                .get(id)
                .is_some_and(|t| t.epoch == epoch && !t.is_done())
        {
            self.lost(now, id, &why, out);
        }
    }

    /// Counts a failure that no kill explains; fails the job when restarting does not help.
    fn blame(&mut self, now: Time, id: TaskId, epoch: Epoch, failure: Failure, out: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let label = self
            .plan
            .stages
            .get(usize::from(id.stage))
            .map_or(String::new(), |s| s.label());
        if failure.fatal {
            let details = details(&failure);
            return self.give_up(format!("{id} ({label}) failed: {}{details}", failure.what), out);
        }
        if task.held.is_some() || !task.blame.charge(epoch, &failure) {
            return;
        }
        if id.stage > 0 && failure.unit.is_none() {
            task.careful = true;
        }
        let (count, most) = (task.blame.count(), self.config.max_restarts);
        if count <= most {
            return;
        }
        let all = task.blame.complete(failure);
        if id.stage > 0 && self.plan.poison.is_some() {
            let known = self.plan.skips.get(&id);
            match all.unit {
                Some(unit) if !known.is_some_and(|units| units.contains(&unit)) => {
                    return self.set_aside(now, id, unit, &all, out);
                }
                // Its next process says which tuple it is, unless it is killed, too.
                None if (!task.is_careful || task.blame.is_known())
                    && count <= most.saturating_mul(2) + 2 =>
                {
                    return;
                }
                _ => {}
            }
        }
        let details = details(&all);
        self.give_up(
            format!(
                "{id} ({label}) failed {count} times in a row: {}{details}",
                all.what
            ),
            out,
        );
    }
}

fn details(failure: &Failure) -> String {
    let mut text = failure
        .key
        .as_ref()
        .map_or(String::new(), |key| format!("; at the tuple with key `{key}`"));
    if !failure.stderr.is_empty() {
        text.push_str(&format!(
            "; its last lines on standard error: {}",
            failure.stderr.join(" | ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_replacement_is_at_once_and_later_ones_wait_up_to_two_seconds() {
        let ms: Vec<u128> = (1..=9).map(|n| back_off(n).as_millis()).collect();
        assert_eq!(ms, [0, 100, 200, 400, 800, 1600, 2000, 2000, 2000]);
    }
}
