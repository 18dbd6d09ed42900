//! When the operator's state is written down, and which parts of the snapshot file make it up.
//!
//! The file is append-only. Each snapshot holds what has changed, and goes on rewriting the rest in rounds: when a round
//! ends, all that was appended before it began is of no use any more. So no snapshot is ever as large as the state.

use std::time::Duration;

use common::clock::Time;
use protocol::task_log::Cut;

use super::mutants::Mutant;

/// Between two snapshots lies so many times what the last one took, within these bounds: what a stateful task has consumed is
/// acknowledged when its snapshot is stored, and its senders' windows wait for that.
const TIMES: u32 = 4;
const EVERY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));
/// The least that a snapshot rewrites of the state that has not changed, once rewriting is worth it.
const REWRITE: usize = 32 * 1024;
/// The file's live part may be this much larger than twice the state before it is.
pub const SLACK: u64 = 1024 * 1024;
/// The file is trimmed when so much of its beginning is dead.
pub const DEAD: u64 = 1024 * 1024;

/// A part of the snapshot file: offset and length.
type Extent = (u64, u64);

#[derive(Debug)]
pub(super) struct Snapshots {
    /// The newest one stored: the order record that it covers.
    pos: u64,
    began: Time,
    due: Time,
    /// Consumed since it was stored.
    bytes: usize,
    /// Its cut, and where in the file it ends.
    under_way: Option<(Cut, u64)>,
    file: SnapshotFile,
    /// Below this the file was trimmed, as far as this process knows.
    trimmed: u64,
}

#[derive(Debug)]
struct SnapshotFile {
    end: u64,
    durable: u64,
    /// What makes the state, in this order.
    extents: Vec<Extent>,
    /// Where in the file the round under way began.
    round: u64,
    /// What made the state when a round was last rewritten as a whole: not much more than the state.
    base: u64,
    rewrite: usize,
    /// The round under way has been rewritten from its beginning on.
    whole: bool,
    slack: u64,
}

impl Snapshots {
    /// The state was restored from `cut`; the file has `end` bytes. `slack`: see [`SLACK`].
    pub fn new(cut: &Cut, end: u64, slack: u64) -> Self {
        Self {
            pos: cut.pos,
            began: Time::ZERO,
            due: Time::ZERO,
            bytes: 0,
            under_way: None,
            file: SnapshotFile {
                end,
                durable: end,
                base: total(&cut.snapshot),
                extents: cut.snapshot.clone(),
                round: end,
                rewrite: 0,
                whole: false,
                slack,
            },
            trimmed: 0,
        }
    }

    /// Where the file may be trimmed, if that is worth it: below all that `durable`, the newest durable checkpoint, is made of. `every`: bytes.
    pub fn trim(&mut self, durable: &Cut, every: u64) -> Option<u64> {
        let extents = match Mutant::SnapshotTrim.is_on() {
            true => self.file.extents.last(),
            false => durable.snapshot.first(),
        };
        let upto = extents.map(|(start, _)| *start)?;
        (upto >= self.trimmed + every).then(|| {
            self.trimmed = upto;
            upto
        })
    }

    pub fn consumed(&mut self, bytes: u64) {
        self.bytes += bytes as usize;
    }

    /// Begins a snapshot of the state at `now_at`, if one is due: how many bytes of unchanged state it is to rewrite. None while the file's
    /// live part is about twice the state; then as many as change, so that it stays within a few times the state. `most`: bytes
    /// consumed that make one due.
    pub fn begin(&mut self, now: Time, now_at: &Cut, most: usize) -> Option<usize> {
        let due = now >= self.due || self.bytes >= most || now_at.done;
        if self.under_way.is_some() || now_at.pos <= self.pos || !due {
            return None;
        }
        self.began = now;
        Some(self.file.rewrite)
    }

    /// `state` goes to the file's end. `cut`: the place that it belongs to. See whether it is [`Snapshots::stored`]: an empty one is at once.
    pub fn taken(&mut self, cut: Cut, state: &[u8], round_ended: bool) {
        self.file.append(state.len(), round_ended);
        self.under_way = Some((cut, self.file.end));
    }

    /// The file is durable up to `upto`: the cut of the snapshot that is stored now, with the extents that make its state.
    pub fn stored(&mut self, now: Time, upto: u64) -> Option<Cut> {
        let durable = self.file.durable.max(upto);
        self.file.durable = durable;
        let (mut cut, _) = self.under_way.take_if(|(_, end)| *end <= durable)?;
        if Mutant::Snapshot.is_on() {
            cut.pos = cut.pos.saturating_sub(1);
        }
        self.pos = cut.pos;
        let hold = now.since(self.began) * TIMES;
        self.due = now + hold.clamp(EVERY.0, EVERY.1);
        self.bytes = 0;
        cut.snapshot.clone_from(&self.file.extents);
        Some(cut)
    }

    /// When the next one is due, if there is something new.
    pub fn deadline(&self, pos: u64) -> Option<Time> {
        (pos > self.pos && self.under_way.is_none()).then_some(self.due)
    }
}

impl SnapshotFile {
    fn append(&mut self, len: usize, round_ended: bool) {
        // What is more than was asked to be rewritten had changed.
        let changed = len.saturating_sub(self.rewrite);
        let len = len as u64;
        if len > 0 {
            match self.extents.last_mut() {
                Some((start, many)) if *start + *many == self.end => *many += len,
                _ => self.extents.push((self.end, len)),
            }
            self.end += len;
        }
        let mut rewriting = self.rewrite > 0;
        if round_ended {
            self.extents = since(&self.extents, self.round);
            self.round = self.end;
            let live = total(&self.extents);
            // A round that went on long before rewriting began holds old states of keys that change: the next one does not.
            let whole = std::mem::replace(&mut self.whole, rewriting);
            self.base = if whole { live } else { self.base.min(live) };
            rewriting &= !whole;
            self.whole &= rewriting;
        }
        rewriting |= total(&self.extents) > 2 * self.base + self.slack;
        self.rewrite = if rewriting { changed.max(REWRITE) } else { 0 };
    }
}

fn total(extents: &[Extent]) -> u64 {
    extents.iter().map(|e| e.1).sum()
}

/// The parts of the extents from `from` on.
fn since(extents: &[Extent], from: u64) -> Vec<Extent> {
    let parts = extents.iter().filter_map(|&(start, len)| {
        let begin = start.max(from);
        let left = (start + len).checked_sub(begin).filter(|left| *left > 0)?;
        Some((begin, left))
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pos: u64) -> Cut {
        Cut {
            pos,
            ..Cut::default()
        }
    }

    fn ms(n: u64) -> Time {
        Time::from_millis(1000 + n)
    }

    #[test]
    fn extents_before_a_round_are_dropped_and_one_across_is_cut() {
        let extents = [(0, 10), (15, 10), (30, 5)];
        assert_eq!(since(&extents, 0), extents);
        assert_eq!(since(&extents, 12), [(15, 10), (30, 5)]);
        assert_eq!(since(&extents, 20), [(20, 5), (30, 5)]);
        assert_eq!(since(&extents, 25), [(30, 5)]);
        assert_eq!(since(&extents, 40), []);
    }

    #[test]
    fn one_at_a_time_and_not_before_it_is_due() {
        let mut snapshots = Snapshots::new(&at(0), 0, SLACK);
        assert_eq!(snapshots.begin(ms(0), &at(0), 100), None, "nothing new");
        assert_eq!(snapshots.begin(ms(0), &at(1), 100), Some(0));
        snapshots.taken(at(1), b"state", false);
        assert_eq!(snapshots.begin(ms(900), &at(2), 100), None, "one is under way");
        assert_eq!(snapshots.stored(ms(10), 4), None);
        let stored = snapshots.stored(ms(10), 5).unwrap();
        assert_eq!((stored.pos, &stored.snapshot[..]), (1, &[(0, 5)][..]));
        assert_eq!(snapshots.deadline(2), Some(ms(50)), "four times what it took");
        assert_eq!(snapshots.begin(ms(49), &at(2), 100), None);
        snapshots.consumed(100);
        assert_eq!(snapshots.begin(ms(49), &at(2), 100), Some(0));
    }

    #[test]
    fn an_empty_one_waits_for_no_append() {
        let mut snapshots = Snapshots::new(&at(0), 70, SLACK);
        assert_eq!(snapshots.begin(ms(0), &at(1), 100), Some(0));
        snapshots.taken(at(1), b"", true);
        assert_eq!(snapshots.stored(ms(0), 0).map(|cut| cut.pos), Some(1));
    }

    /// One hot tenth of the keys changes all the time.
    #[test]
    fn the_live_part_of_the_file_stays_within_a_few_times_the_state() {
        const STATE: usize = 100_000;
        const HOT: usize = STATE / 10;
        let mut snapshots = Snapshots::new(&at(0), 0, 1000);
        let (mut left, mut appended) = (STATE, 0);
        for pos in 1..5000 {
            let rewrite = snapshots.begin(ms(200 * pos), &at(pos), 1).unwrap();
            let changed = if pos == 1 { STATE } else { HOT };
            left = left.min(STATE - changed);
            let rewritten = rewrite.min(left);
            left -= rewritten;
            let ended = left == 0;
            if ended {
                left = STATE;
            }
            appended += changed + rewritten;
            snapshots.taken(at(pos), &vec![0; changed + rewritten], ended);
            let cut = snapshots.stored(ms(200 * pos + 1), u64::MAX).unwrap();
            let live = total(&cut.snapshot) as usize;
            assert!((STATE..=6 * STATE).contains(&live), "{pos}: {live}");
        }
        assert!(
            appended <= 2 * 5000 * HOT + STATE,
            "{appended} bytes for {} changed",
            5000 * HOT
        );
    }
}
