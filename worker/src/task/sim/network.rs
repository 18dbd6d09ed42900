//! Connections between simulated tasks, and what the machines want done.

use super::*;

impl World {
    /// Gives a process an input, and does what it wants done.
    pub(super) fn give(&mut self, p: usize, input: Input) {
        let mut effects = vec![];
        self.processes[p].task.handle(self.now, input, &mut effects);
        self.carry_out(p, effects);
    }

    pub(super) fn flush(&mut self, p: usize) {
        let mut effects = vec![];
        self.processes[p].task.flush(self.now, &mut effects);
        self.carry_out(p, effects);
    }

    fn carry_out(&mut self, p: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::AppendLog { records } => self.append(p, "log", records.into()),
                Effect::AppendSnapshot { state } => self.append(p, "snap", state.into()),
                Effect::TrimLog { upto } => self.trim(p, "log", upto),
                Effect::TrimSnapshots { upto } => self.trim(p, "snap", upto),
                Effect::AppendOutput { output, bytes } => {
                    let file = match self.processes[p].task.aside() == Some(output) {
                        true => "aside",
                        false => "dest",
                    };
                    self.append(p, file, bytes);
                }
                Effect::SendFrame { output, frame } => {
                    if let Some(link) = self.processes[p].links.get_mut(&output) {
                        link.frames.push_back(frame);
                    }
                }
                Effect::Acknowledge { connection, upto } => {
                    if let Some(link) = self.link(connection) {
                        link.acks.push_back(upto);
                    }
                }
                Effect::Disconnect {
                    connection,
                    from,
                    gap,
                } => {
                    assert!(
                        !gap || self.mutant.is_some(),
                        "a gap on {from} to {}",
                        self.processes[p].id
                    );
                    if let Some(link) = self.link(connection) {
                        link.closed = true;
                    }
                }
                Effect::Fenced { .. } => self.processes[p].fenced = true,
                // Given to the sender by `connect`.
                Effect::Accept { .. } | Effect::Refuse { .. } => unreachable!("nobody has asked"),
                Effect::Delivered { .. }
                | Effect::Routed(_)
                | Effect::FirstOutput { .. }
                | Effect::Report
                | Effect::NothingFollows
                | Effect::Finished => {}
            }
        }
    }

    fn link(&mut self, number: ConnectionId) -> Option<&mut Link> {
        let links = self.processes.iter_mut().flat_map(|p| p.links.values_mut());
        links.into_iter().find(|l| l.number == number)
    }

    /// The sender learns that a connection has ended.
    pub(super) fn disconnect(&mut self, p: usize) {
        if let Some((output, _)) = self.processes[p].links.pop_first() {
            self.give(p, Input::ReceiverLost { output });
        }
    }

    /// Something moves on one of the process's connections, which is made first where there is none.
    pub(super) fn transfer(&mut self, p: usize) {
        let receivers: Vec<(usize, TaskId)> = self.processes[p].task.receivers().collect();
        if receivers.is_empty() {
            return;
        }
        let (output, to) = receivers[self.rng.random_range(0..receivers.len())];
        let Some(link) = self.processes[p].links.get(&output) else {
            return self.connect(p, output, to);
        };
        let (number, to_epoch, closed) = (link.number, link.to_epoch, link.closed);
        let receiver = self
            .processes
            .iter()
            .position(|q| q.id == to && q.epoch == to_epoch);
        let (Some(q), true) = (receiver, !closed || self.rng.random_bool(0.5)) else {
            self.processes[p].links.remove(&output);
            return self.give(p, Input::ReceiverLost { output });
        };
        let (from, both) = (
            self.processes[p].id,
            [self.rng.random_bool(0.7), self.rng.random_bool(0.7)],
        );
        let [deliver, acknowledge] = both;
        if deliver && let Some(frame) = self.pop(p, output, |link| link.frames.pop_front()) {
            let item = wire::decode_data(&frame).expect("a frame of this program");
            let connection = number;
            self.give(
                q,
                Input::FrameReceived {
                    connection,
                    from,
                    item,
                },
            );
        }
        if acknowledge && let Some(upto) = self.pop(p, output, |link| link.acks.pop_front()) {
            self.give(p, Input::ReceiverAcknowledged { output, upto });
        }
    }

    fn pop<T>(&mut self, p: usize, output: usize, take: impl Fn(&mut Link) -> Option<T>) -> Option<T> {
        self.processes[p].links.get_mut(&output).and_then(take)
    }

    /// Connects to the newest process of the receiver, if there is one.
    fn connect(&mut self, p: usize, output: usize, to: TaskId) {
        let Some(q) = self.newest(to) else { return };
        let (from, epoch) = (self.processes[p].id, Epoch(self.processes[p].epoch));
        self.connections += 1;
        let connection = self.connections;
        let open = wire::Open {
            job: "job".parse().expect("a name"),
            from,
            epoch,
            to,
            oldest: self.processes[p].task.oldest(output),
        };
        let mut effects = vec![];
        let input = Input::SenderConnected { connection, open };
        self.processes[q].task.handle(self.now, input, &mut effects);
        let asked = |e: &Effect| matches!(e, Effect::Accept { .. } | Effect::Refuse { .. });
        let at = effects.iter().position(asked).expect("an answer");
        match effects.remove(at) {
            Effect::Accept { standing, .. } => {
                let link = Link {
                    to_epoch: self.processes[q].epoch,
                    number: connection,
                    frames: VecDeque::new(),
                    acks: VecDeque::new(),
                    closed: false,
                };
                self.processes[p].links.insert(output, link);
                self.give(p, Input::ReceiverConnected { output, standing });
            }
            Effect::Refuse { refusal, .. } => {
                let older = matches!(refusal, Refusal::OlderEpoch { .. });
                assert!(older || self.mutant.is_some(), "{from} to {to}: {refusal}");
                let why = refusal.to_string();
                self.give(p, Input::ReceiverRefused { to, why });
            }
            _ => {}
        }
        self.carry_out(q, effects);
    }
}
