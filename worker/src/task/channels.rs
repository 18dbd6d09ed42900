//! The input channels: what each sender has sent, which of its processes is heard, and over which connection.

use std::collections::{BTreeMap, BTreeSet};

use common::ids::{Epoch, TaskId};

use super::effect::{ConnectionId, Effect, Refusal};
use super::inbox::{Inbox, Item, Received};
use super::mutants::Mutant;

/// One sender.
#[derive(Debug)]
struct Channel {
    inbox: Inbox,
    /// The newest process of the sender that has connected.
    epoch: Epoch,
    /// Its newest connection, unless that was closed here.
    connection: Option<ConnectionId>,
    /// What was acknowledged on it.
    told: u64,
}

impl Channel {
    fn new(consumed: u64) -> Self {
        Self {
            inbox: Inbox::new(consumed),
            epoch: Epoch::default(),
            connection: None,
            told: 0,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Channels {
    by_sender: BTreeMap<TaskId, Channel>,
    /// Who was served last, for fairness.
    served: Option<TaskId>,
    /// Whose end marks are awaited.
    awaited: BTreeSet<TaskId>,
}

impl Channels {
    /// `upstream`: all of them must end before this task does.
    pub fn new(upstream: &[TaskId]) -> Self {
        let mut channels = Self::default();
        upstream.iter().for_each(|task| channels.add(*task, 0));
        channels
    }

    /// One more upstream task, unless it is known.
    pub fn add(&mut self, task: TaskId, consumed: u64) {
        self.open(task, consumed);
        self.awaited.insert(task);
    }

    /// A channel that need not end: that of a task of the same stage.
    pub fn open(&mut self, task: TaskId, consumed: u64) {
        self.by_sender
            .entry(task)
            .or_insert_with(|| Channel::new(consumed));
    }

    /// No upstream task at all: this task is a source.
    pub fn is_empty(&self) -> bool {
        self.by_sender.is_empty()
    }

    pub fn awaited(&self) -> &BTreeSet<TaskId> {
        &self.awaited
    }

    pub fn inbox(&mut self, from: TaskId) -> Option<&mut Inbox> {
        self.by_sender.get_mut(&from).map(|c| &mut c.inbox)
    }

    /// All channels begin again behind what `consumed` says of them.
    pub fn restart(&mut self, consumed: impl Fn(TaskId) -> u64) {
        for (from, channel) in &mut self.by_sender {
            channel.inbox = Inbox::new(consumed(*from));
        }
    }

    pub fn bytes(&self) -> usize {
        self.by_sender.values().map(|c| c.inbox.bytes()).sum()
    }

    pub fn units(&self) -> u64 {
        self.by_sender.values().map(|c| c.inbox.units()).sum()
    }

    // --- connections ----------------------------------------------------------------------------------------------

    /// The fence: a sender's process is heard unless a newer one has been. True: it is a newer one itself.
    pub fn admit(&self, from: TaskId, epoch: Epoch) -> Result<bool, Refusal> {
        let newest = self.by_sender.get(&from).map(|c| c.epoch).unwrap_or_default();
        if epoch < newest && !Mutant::Fence.is_on() {
            return Err(Refusal::OlderEpoch { from, newest });
        }
        Ok(epoch > newest)
    }

    /// From here on this connection is the one that counts. Returns the one that did, unless it was closed.
    pub fn attach(&mut self, from: TaskId, epoch: Epoch, connection: ConnectionId) -> Option<ConnectionId> {
        let channel = self.by_sender.get_mut(&from)?;
        channel.epoch = channel.epoch.max(epoch);
        channel.told = 0;
        channel.connection.replace(connection)
    }

    /// The connection that counts is to be closed: nothing that comes over it is taken in.
    pub fn detach(&mut self, from: TaskId) {
        if let Some(channel) = self.by_sender.get_mut(&from) {
            channel.connection = None;
        }
    }

    /// What is under way on a connection that was replaced, or closed here, does not count.
    pub fn is_current(&self, from: TaskId, connection: ConnectionId) -> bool {
        let current = self.by_sender.get(&from).and_then(|c| c.connection);
        current == Some(connection)
    }

    pub fn receive(&mut self, from: TaskId, item: Item) -> Received {
        let Some(channel) = self.by_sender.get_mut(&from) else {
            return Received::Gap;
        };
        if Mutant::Dedup.is_on() {
            channel.inbox.receive_unchecked(item);
            return Received::New;
        }
        channel.inbox.receive(item)
    }

    /// Tells the sender that it may forget units below `upto`; `again`: also if it was told.
    pub fn acknowledge(&mut self, from: TaskId, upto: u64, again: bool, effects: &mut Vec<Effect>) {
        if let Some(channel) = self.by_sender.get_mut(&from)
            && let Some(connection) = channel.connection
            && (upto > channel.told || again)
        {
            channel.told = upto;
            effects.push(Effect::Acknowledge { connection, upto });
        }
    }

    /// The same for all senders, by what `consumed` says of them.
    pub fn acknowledge_all(&mut self, consumed: &BTreeMap<TaskId, u64>, effects: &mut Vec<Effect>) {
        for (from, channel) in &mut self.by_sender {
            let upto = consumed.get(from).copied().unwrap_or(0);
            if let Some(connection) = channel.connection.filter(|_| upto > channel.told) {
                channel.told = upto;
                effects.push(Effect::Acknowledge { connection, upto });
            }
        }
    }

    // --- consumption ----------------------------------------------------------------------------------------------

    /// The next piece of the channel whose turn it is: one after the other among those with something that is not held back.
    pub fn pop(&mut self, is_held: impl Fn(TaskId) -> bool) -> Option<(TaskId, Item)> {
        let ready = |(from, c): &(&TaskId, &mut Channel)| c.inbox.is_ready() && !is_held(**from);
        let served = self.served;
        let (mut first, mut next) = (None, None);
        for (from, channel) in self.by_sender.iter_mut().filter(ready) {
            if Some(*from) > served {
                next = Some((*from, channel));
                break;
            }
            first = first.or(Some((*from, channel)));
        }
        let (from, channel) = next.or(first)?;
        let item = channel.inbox.pop()?;
        self.served = Some(from);
        Some((from, item))
    }

    /// The end mark of a channel that holds nothing else.
    pub fn pop_end(&mut self) -> Option<(TaskId, Item)> {
        let (from, channel) = self.by_sender.iter_mut().find(|(_, c)| c.inbox.is_at_end())?;
        Some((*from, channel.inbox.pop()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::inbox::Content;
    use protocol::batch::Builder;

    const FROM: [TaskId; 2] = [TaskId { stage: 0, index: 0 }, TaskId { stage: 0, index: 1 }];

    fn tuples(start: u64, many: u64) -> Item {
        let mut builder = Builder::new();
        (0..many).for_each(|n| builder.push(b"k", n.to_string().as_bytes()));
        Item {
            start,
            born_us: 0,
            content: Content::Tuples(builder.take()),
        }
    }

    #[test]
    fn an_older_process_of_a_sender_is_fenced_out() {
        let mut channels = Channels::new(&FROM);
        assert_eq!(channels.admit(FROM[0], Epoch(2)), Ok(true));
        assert_eq!(channels.attach(FROM[0], Epoch(2), 7), None);
        assert_eq!(
            channels.admit(FROM[0], Epoch(2)),
            Ok(false),
            "it may connect again"
        );
        let older = Refusal::OlderEpoch {
            from: FROM[0],
            newest: Epoch(2),
        };
        assert_eq!(channels.admit(FROM[0], Epoch(1)), Err(older));
        assert_eq!(
            channels.admit(FROM[1], Epoch(1)),
            Ok(true),
            "others have their own epochs"
        );
    }

    #[test]
    fn only_the_newest_connection_counts() {
        let mut channels = Channels::new(&FROM);
        channels.attach(FROM[0], Epoch(1), 7);
        assert_eq!(channels.attach(FROM[0], Epoch(2), 9), Some(7));
        assert!(channels.is_current(FROM[0], 9) && !channels.is_current(FROM[0], 7));
        channels.detach(FROM[0]);
        assert!(!channels.is_current(FROM[0], 9));
        assert_eq!(channels.attach(FROM[0], Epoch(2), 11), None, "it was closed here");
    }

    #[test]
    fn senders_are_told_once_and_again_over_a_new_connection() {
        let (mut channels, mut effects) = (Channels::new(&FROM), vec![]);
        channels.acknowledge_all(&BTreeMap::from([(FROM[0], 3)]), &mut effects);
        assert_eq!(effects, [], "nobody is there");
        channels.attach(FROM[0], Epoch(1), 7);
        for _ in 0..2 {
            channels.acknowledge_all(&BTreeMap::from([(FROM[0], 3)]), &mut effects);
        }
        assert_eq!(
            effects,
            [Effect::Acknowledge {
                connection: 7,
                upto: 3
            }]
        );
        channels.attach(FROM[0], Epoch(1), 8);
        channels.acknowledge(FROM[0], 3, false, &mut effects);
        assert_eq!(
            effects[1..],
            [Effect::Acknowledge {
                connection: 8,
                upto: 3
            }]
        );
    }

    #[test]
    fn channels_are_served_in_turn() {
        let mut channels = Channels::new(&FROM);
        for from in FROM {
            assert_eq!(channels.receive(from, tuples(0, 2)), Received::New);
            assert_eq!(channels.receive(from, tuples(2, 2)), Received::New);
        }
        let mut order = vec![];
        while let Some((from, _)) = channels.pop(|_| false) {
            order.push(from.index);
        }
        assert_eq!(order, [0, 1, 0, 1]);
        channels.receive(FROM[0], tuples(4, 1));
        assert!(channels.pop(|from| from == FROM[0]).is_none(), "it is held back");
    }
}
