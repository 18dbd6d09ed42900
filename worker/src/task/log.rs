//! The writing end of the task's log: what waits for the next append, what is under way, and what is durable.

use std::collections::VecDeque;
use std::time::Duration;

use common::clock::Time;
use common::hold::Hold;
use protocol::task_log::{self, Cut, Digest, Record};

use super::checkpoints::CHECKPOINT_EVERY;

/// How long records for the log, and small results for the destination, are gathered.
pub const HOLD: Hold = Hold {
    times: 2,
    most: CHECKPOINT_EVERY,
};
/// With this much to append, it is not held back.
const GROUP_BYTES: usize = 64 * 1024;
/// The log of a task whose outputs wait for nothing is appended to this often: what comes of it is how much is read again after a restart.
const FIXED_EVERY: Duration = Duration::from_millis(50);
/// Where tuples are old when they come, as under full load, records may be gathered for this part of their age: appends cost the storage nodes
/// more than the tuples cost this task.
const OLDER: u32 = 4;

/// An append to the log under way.
#[derive(Debug)]
struct Append {
    /// The log's end behind it.
    end: u64,
    /// The newest order record in it.
    pos: u64,
    checkpoint: Option<Box<Cut>>,
    since: Time,
}

#[derive(Debug, Default)]
pub(super) struct LogWriter {
    /// Encoded records that wait for the next append, and what they hold.
    pending: Vec<u8>,
    pending_pos: u64,
    pending_checkpoint: Option<Box<Cut>>,
    under_way: VecDeque<Append>,
    /// No append begins before, unless there is much to append.
    next_at: Time,
    /// So long ago the tuples at hand were read by their source.
    age: Duration,
    end: u64,
    /// Of all that was noted.
    digest: Digest,
    /// Order records up to here are in the log.
    durable: u64,
}

impl LogWriter {
    /// Goes on behind a log that ends at byte `end`, whose newest valid order record is `durable`.
    pub fn behind(end: u64, digest: Digest, durable: u64) -> Self {
        Self {
            pending_pos: durable,
            end,
            digest,
            durable,
            ..Self::default()
        }
    }

    pub fn note(&mut self, record: &Record) {
        if let Record::Order { pos, .. } = record {
            self.pending_pos = *pos;
        }
        let at = self.pending.len();
        task_log::encode(record, &mut self.pending);
        self.digest.take(&self.pending[at..]);
    }

    /// `said`: the record of it.
    pub fn note_checkpoint(&mut self, cut: Box<Cut>, said: Box<Cut>) {
        self.note(&Record::Checkpoint(said));
        self.pending_checkpoint = Some(cut);
    }

    /// Where the next record begins, and the digest of those before it.
    pub fn place(&self) -> (u64, Digest) {
        (self.end + self.pending.len() as u64, self.digest)
    }

    pub fn note_age(&mut self, age: Duration) {
        self.age = age;
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// A task without a log goes on as if it were there.
    pub fn pretend(&mut self, pos: u64) {
        self.durable = pos;
    }

    /// May an append begin now? One at a time: what comes meanwhile shares the next one. Under load that is many records.
    pub fn is_open(&self, now: Time, hurry: bool) -> bool {
        let held = !self.under_way.is_empty() || (now < self.next_at && !hurry);
        !held || self.pending.len() >= GROUP_BYTES
    }

    /// What is to be appended now, if there is anything.
    pub fn take(&mut self, now: Time) -> Option<Vec<u8>> {
        let records = std::mem::take(&mut self.pending);
        if records.is_empty() {
            return None;
        }
        self.end += records.len() as u64;
        self.under_way.push_back(Append {
            end: self.end,
            pos: self.pending_pos,
            checkpoint: self.pending_checkpoint.take(),
            since: now,
        });
        Some(records)
    }

    /// The log is durable up to `upto`. Returns the newest checkpoint that is now. `fixed`: nobody waits for its records.
    pub fn stored(&mut self, now: Time, upto: u64, fixed: bool) -> Option<Box<Cut>> {
        let mut checkpoint = None;
        while self.under_way.front().is_some_and(|a| a.end <= upto)
            && let Some(append) = self.under_way.pop_front()
        {
            let hold = match fixed {
                true => FIXED_EVERY,
                false => HOLD
                    .after(now.since(append.since))
                    .max((self.age / OLDER).min(HOLD.most)),
            };
            self.next_at = now + hold;
            self.durable = self.durable.max(append.pos);
            checkpoint = append.checkpoint.or(checkpoint);
        }
        checkpoint
    }

    /// When records that are held back may go.
    pub fn deadline(&self) -> Option<Time> {
        (!self.pending.is_empty() && self.under_way.is_empty()).then_some(self.next_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::task_log::Order;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn begin() -> Time {
        Time::from_millis(1000)
    }

    fn order(pos: u64) -> Record {
        Record::Order {
            pos,
            order: Order::Finish,
        }
    }

    /// A log with one append, which took 1 ms, done at [`begin`] + 1 ms, and one record to follow.
    fn held(fixed: bool, age: Duration) -> LogWriter {
        let mut log = LogWriter::behind(0, Digest::default(), 0);
        log.note(&order(1));
        assert!(log.is_open(begin(), false), "the first waits for nobody");
        assert!(log.take(begin()).is_some());
        log.note_age(age);
        log.stored(begin() + ms(1), log.end, fixed);
        log.note(&order(2));
        log
    }

    /// How long after the last append the next record goes.
    fn gathered(log: &LogWriter) -> Duration {
        let at = (0..200)
            .map(|n| begin() + ms(1 + n))
            .find(|at| log.is_open(*at, false));
        at.unwrap().since(begin() + ms(1))
    }

    #[test]
    fn records_are_gathered_by_the_last_append_and_the_age_of_tuples() {
        let after = |fixed, age| gathered(&held(fixed, ms(age)));
        assert_eq!(after(false, 0), ms(2), "twice the last append");
        assert_eq!(after(false, 4), ms(2), "young tuples do not wait less");
        assert_eq!(after(false, 20), ms(5), "a quarter of the age");
        assert_eq!(after(false, 5000), ms(10), "never longer than this");
        assert_eq!(after(true, 0), ms(50), "nobody waits for them");
        assert!(
            held(true, ms(0)).is_open(begin() + ms(1), true),
            "the last ones do not wait"
        );
    }

    #[test]
    fn records_are_durable_when_their_append_is() {
        let mut log = held(false, ms(0));
        assert_eq!(log.durable(), 1);
        let cut = Box::new(Cut {
            pos: 2,
            ..Cut::default()
        });
        log.note_checkpoint(cut.clone(), cut);
        log.take(begin() + ms(9));
        assert!(!log.is_open(begin() + ms(99), true), "one append at a time");
        assert_eq!(log.stored(begin() + ms(10), log.end - 1, false), None);
        assert_eq!(log.durable(), 1);
        let checkpoint = log.stored(begin() + ms(10), log.end, false);
        assert_eq!((log.durable(), checkpoint.unwrap().pos), (2, 2));
    }

    #[test]
    fn much_is_not_held_back() {
        let mut log = held(false, ms(0));
        log.take(begin());
        log.note(&Record::Tuples {
            pos: 3,
            frame: vec![0; GROUP_BYTES].into(),
        });
        assert!(log.is_open(begin(), false));
    }
}
