//! Cuts that may become checkpoints, and the checkpoints that are written and durable.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use common::clock::Time;
use common::ids::TaskId;
use protocol::task_log::{Cut, Keeps, Places, SourcePos};

use super::outputs::Outputs;

/// A checkpoint is written at least this often while there is something new to cover ...
pub(super) const CHECKPOINT_EVERY: Duration = Duration::from_millis(10);
/// ... and this often where it can ride with an append that is made anyway.
const CHECKPOINT_RIDES: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Checkpoints {
    /// Cuts behind the newest checkpoint, oldest first; the first one has passed.
    cuts: VecDeque<Cut>,
    /// Position of the newest checkpoint written or pending, and when that was.
    written: u64,
    written_at: Time,
    /// What outputs were acknowledged by it, where it says so.
    noted: Vec<u64>,
    /// The newest durable checkpoint: what upstream may forget.
    durable: Cut,
    /// Consumed since the newest one was written.
    bytes: usize,
    /// Of a source of files that grow: which slices were read since the newest one was written, and by which order record. A file's
    /// place is said again only when it has moved: there may be thousands.
    moved: VecDeque<(u64, u32)>,
}

impl Checkpoints {
    pub fn new(cut: Cut) -> Self {
        Self {
            cuts: VecDeque::from([cut.clone()]),
            written: 0,
            written_at: Time::ZERO,
            noted: Vec::new(),
            durable: cut,
            bytes: 0,
            moved: VecDeque::new(),
        }
    }

    /// The task stands at this checkpoint.
    pub fn stand_at(&mut self, cut: &Cut) {
        self.cuts = VecDeque::from([cut.clone()]);
        self.found(cut.clone());
    }

    /// The log's newest checkpoint, for a task that begins before it.
    pub fn found(&mut self, cut: Cut) {
        self.written = cut.pos;
        self.noted.clone_from(&cut.acked);
        self.durable = cut;
    }

    pub fn durable(&self) -> &Cut {
        &self.durable
    }

    pub fn set_durable(&mut self, cut: Cut) {
        self.durable = cut;
    }

    /// A place that may become a checkpoint.
    pub fn push(&mut self, cut: Cut) {
        self.cuts.push_back(cut);
    }

    /// Order record `pos` was of lines of a slice that grows.
    pub fn moved(&mut self, pos: u64, slice: u32) {
        self.moved.push_back((pos, slice));
    }

    pub fn consumed(&mut self, bytes: u64) {
        self.bytes += bytes as usize;
    }

    /// Without a log a new process of a sender numbers its tuples anew.
    pub fn renumber(&mut self, from: TaskId, first: u64) {
        for cut in &mut self.cuts {
            cut.consumed.insert(from, first);
        }
        self.durable.consumed.insert(from, first);
    }

    /// Without a log all that comes from a sender may be forgotten.
    pub fn forget(&mut self, from: TaskId, upto: u64) {
        self.durable.consumed.insert(from, upto);
    }

    /// Without a log the source begins where its predecessor's output is known to have arrived.
    pub fn begin_at(&mut self, source: &SourcePos) {
        self.durable.source = source.clone();
        for cut in &mut self.cuts {
            cut.source = source.clone();
        }
    }

    /// The checkpoint to be written now with what its record says, if one is due: the newest cut whose outputs are all acknowledged; where the log holds what it
    /// takes to give them again, any cut. `rides`: something is appended anyway. `most`: bytes consumed that make one due.
    pub fn take_due(
        &mut self,
        now: Time,
        rides: bool,
        keeps: Keeps,
        most: usize,
        outputs: &Outputs,
    ) -> Option<(Box<Cut>, Box<Cut>)> {
        // A cut may be passed before its own order record is durable: both are in the log by the time that the checkpoint is, since
        // the log keeps their order.
        let passed = |cut: &Cut| keeps != Keeps::Order || outputs.have_passed(&cut.emitted);
        while self.cuts.len() > 1 && passed(&self.cuts[1]) {
            self.cuts.pop_front();
        }
        let again = outputs.have_news_for(&self.noted);
        let cut = self.cuts.front().filter(|c| c.pos > self.written || again)?;
        let since = now.since(self.written_at);
        let due = since >= CHECKPOINT_EVERY
            || (since >= CHECKPOINT_RIDES && rides)
            || self.bytes >= most
            || cut.done
            || again;
        if !due {
            return None;
        }
        let mut cut = Box::new(cut.clone());
        if keeps != Keeps::Order {
            // Outputs that came later are not the cut's.
            let outputs = outputs.iter().zip(&cut.emitted);
            cut.acked = outputs.map(|(o, emitted)| o.acked().min(*emitted)).collect();
            self.noted.clone_from(&cut.acked);
        }
        self.written = cut.pos;
        self.written_at = now;
        self.bytes = 0;
        let mut said = cut.clone();
        said.source.growing = self.take_moved(&cut);
        Some((cut, said))
    }

    /// The places that have moved since the last checkpoint, as the cut has them.
    fn take_moved(&mut self, cut: &Cut) -> Places {
        let many = self.moved.partition_point(|(pos, _)| *pos <= cut.pos);
        let slices: BTreeSet<u32> = self.moved.drain(..many).map(|(_, slice)| slice).collect();
        let growing = &cut.source.growing;
        let places = slices.into_iter().filter_map(|s| Some((s, *growing.get(&s)?)));
        places.collect()
    }

    /// When the next one is due, if there is something to cover.
    pub fn deadline(&self) -> Option<Time> {
        let waiting = self.cuts.back().is_some_and(|c| c.pos > self.written);
        waiting.then_some(self.written_at + CHECKPOINT_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::outputs::Neighbours;

    fn cut(pos: u64, emitted: u64) -> Cut {
        Cut {
            pos,
            emitted: vec![emitted],
            ..Cut::default()
        }
    }

    /// One output that has emitted and closed four units.
    fn outputs() -> Outputs {
        let neighbours = Neighbours {
            downstream: vec![TaskId::new(1, 0)],
            ..Neighbours::default()
        };
        let mut outputs = Outputs::new(&neighbours, false);
        for pos in 1..=4 {
            outputs.end(pos);
        }
        outputs
    }

    fn ms(n: u64) -> Time {
        Time::from_millis(1000 + n)
    }

    #[test]
    fn only_a_cut_whose_outputs_have_arrived_becomes_a_checkpoint() {
        let (mut checkpoints, mut outputs) = (Checkpoints::new(cut(0, 0)), outputs());
        (1..=4).for_each(|pos| checkpoints.push(cut(pos, pos)));
        let mut take = |outputs: &Outputs, at| {
            let taken = checkpoints.take_due(at, false, Keeps::Order, 100, outputs);
            taken.map(|(cut, _)| cut.pos)
        };
        assert_eq!(take(&outputs, ms(0)), None);
        outputs.acknowledge(0, 2, &mut vec![]);
        assert_eq!(take(&outputs, ms(0)), Some(2));
        outputs.acknowledge(0, 3, &mut vec![]);
        assert_eq!(take(&outputs, ms(9)), None, "not yet");
        assert_eq!(take(&outputs, ms(10)), Some(3));
    }

    #[test]
    fn a_log_that_can_give_all_again_waits_for_no_receiver() {
        let (mut checkpoints, outputs) = (Checkpoints::new(cut(0, 0)), outputs());
        checkpoints.push(cut(4, 4));
        let taken = checkpoints.take_due(ms(0), false, Keeps::Productions, 100, &outputs);
        let (taken, _) = taken.unwrap();
        assert_eq!((taken.pos, &taken.acked[..]), (4, &[0][..]));
    }

    #[test]
    fn a_checkpoint_says_which_files_have_moved_and_no_others() {
        let place = |at| protocol::task_log::LinePosition { at, line: 1 };
        let mut outputs = outputs();
        outputs.acknowledge(0, 1, &mut vec![]);
        let mut checkpoints = Checkpoints::new(cut(0, 0));
        let mut now = cut(0, 0);
        now.source.growing = (0..1000).map(|slice| (slice, place(5))).collect();
        for (pos, slice) in [(1, 7), (2, 9)] {
            now.pos = pos;
            now.emitted = vec![pos];
            now.source.growing.insert_mut(slice, place(20 + pos));
            checkpoints.moved(pos, slice);
            checkpoints.push(now.clone());
        }
        let mut said = |outputs: &Outputs, at| {
            let (cut, said) = checkpoints
                .take_due(at, false, Keeps::Order, 100, outputs)
                .unwrap();
            assert_eq!(cut.source.growing.size(), 1000);
            let said = said.source.growing.iter();
            said.map(|(slice, place)| (*slice, place.at)).collect::<Vec<_>>()
        };
        assert_eq!(said(&outputs, ms(0)), [(7, 21)]);
        outputs.acknowledge(0, 2, &mut vec![]);
        assert_eq!(said(&outputs, ms(10)), [(9, 22)]);
    }

    #[test]
    fn one_rides_with_an_append_or_comes_when_much_was_consumed() {
        let (mut checkpoints, mut outputs) = (Checkpoints::new(cut(0, 0)), outputs());
        outputs.acknowledge(0, 4, &mut vec![]);
        checkpoints.push(cut(1, 1));
        assert!(
            checkpoints
                .take_due(ms(0), false, Keeps::Order, 100, &outputs)
                .is_some()
        );
        checkpoints.push(cut(2, 2));
        assert!(
            checkpoints
                .take_due(ms(5), false, Keeps::Order, 100, &outputs)
                .is_none()
        );
        assert!(
            checkpoints
                .take_due(ms(5), true, Keeps::Order, 100, &outputs)
                .is_some()
        );
        checkpoints.push(cut(3, 3));
        checkpoints.consumed(100);
        assert_eq!(checkpoints.deadline(), Some(ms(15)));
        assert!(
            checkpoints
                .take_due(ms(5), false, Keeps::Order, 100, &outputs)
                .is_some()
        );
        assert_eq!(checkpoints.deadline(), None, "nothing to cover");
    }
}
