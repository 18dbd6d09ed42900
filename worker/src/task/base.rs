//! Where the log may be trimmed.
//!
//! ```text
//!    gone | BASE  orders ... orders | BASE  orders ... checkpoint ...
//!         `- the log begins here       `- it may begin here once a checkpoint of a later place is durable
//! ```
//! A base is noted when the log has grown, at the task's place of that moment. Its outputs have not arrived then. So the log is
//! trimmed up to it only when a checkpoint behind that place is durable: a restart begins there, and lives through orders that
//! stand behind the base. Where the log holds what was put out, all that was put out before the base must have arrived, too.

use protocol::task_log::{Base, Cut, Keeps};

use super::mutants::Mutant;

/// A base is noted when the log has grown by so many bytes ...
pub const EVERY: u64 = 1024 * 1024;
/// ... and by so many times the last one's size: a base names every file that grows.
const TIMES: u64 = 8;

/// A base in the log that it is not trimmed to yet.
#[derive(Debug, Clone)]
struct Noted {
    at: u64,
    pos: u64,
    emitted: Vec<u64>,
}

#[derive(Debug, Default)]
pub(super) struct LogBase {
    every: u64,
    /// The log is kept as a whole.
    keep: bool,
    /// Where the log began when it was last looked at, and where the newest base stands.
    begin: u64,
    noted: Option<Noted>,
    /// The newest one's size.
    size: u64,
    /// How many processes had begun, and checkpoints were written.
    processes: u64,
    checkpoints: u64,
}

impl LogBase {
    /// `every`: see [`EVERY`]; 0: never. `keep`: nothing is to be trimmed.
    pub fn new(every: u64, keep: bool) -> Self {
        Self {
            every,
            keep,
            ..Self::default()
        }
    }

    /// The log begins with this base.
    pub fn begin_with(&mut self, base: &Base, size: u64) {
        (self.begin, self.size) = (base.at, size);
        self.processes = base.processes;
        self.checkpoints = base.checkpoints;
    }

    pub fn process_began(&mut self) {
        self.processes += 1;
    }

    pub fn checkpoint_written(&mut self) {
        self.checkpoints += 1;
    }

    pub fn processes(&self) -> u64 {
        self.processes
    }

    pub fn checkpoints(&self) -> u64 {
        self.checkpoints
    }

    /// Is one to be noted in a log that ends at `end`?
    pub fn is_due(&self, end: u64) -> bool {
        let every = self.every.max(self.size * TIMES);
        self.every > 0 && self.noted.is_none() && end >= self.begin + every
    }

    /// It was noted, or found in the log; `size`: its bytes.
    pub fn note(&mut self, base: &Base, size: u64) {
        self.size = size;
        self.noted = Some(Noted {
            at: base.at,
            pos: base.cut.pos,
            emitted: base.cut.emitted.clone(),
        });
    }

    /// Order records behind `pos` are void, and what a base says of them.
    pub fn void(&mut self, pos: u64) {
        self.noted.take_if(|noted| noted.pos > pos);
    }

    /// Where the log may be trimmed now, given the newest durable checkpoint.
    pub fn trim(&mut self, durable: &Cut, keeps: Keeps) -> Option<u64> {
        let noted = self.noted.take_if(|noted| {
            let mut emitted = noted.emitted.iter().enumerate();
            let acked = |i: usize| durable.acked.get(i).copied();
            let arrived = keeps != Keeps::Productions
                || emitted.all(|(i, n)| acked(i).is_some_and(|acked| acked >= *n));
            (durable.pos >= noted.pos || Mutant::EarlyTrim.is_on())
                && (arrived || Mutant::TrimUnasked.is_on())
        })?;
        self.begin = noted.at;
        (!self.keep).then_some(noted.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(at: u64, pos: u64, emitted: &[u64]) -> Base {
        Base {
            at,
            cut: Cut {
                pos,
                emitted: emitted.to_vec(),
                ..Cut::default()
            },
            ..Base::default()
        }
    }

    fn checkpoint(pos: u64, acked: &[u64]) -> Cut {
        Cut {
            pos,
            acked: acked.to_vec(),
            ..Cut::default()
        }
    }

    #[test]
    fn one_is_due_when_the_log_has_grown() {
        let mut log = LogBase::new(100, false);
        assert!(!log.is_due(99) && log.is_due(100));
        log.note(&base(100, 7, &[]), 20);
        assert!(!log.is_due(900), "the log is not trimmed to the last one yet");
        assert_eq!(log.trim(&checkpoint(7, &[]), Keeps::Order), Some(100));
        assert!(!log.is_due(259) && log.is_due(260), "eight times its size");
        assert!(!LogBase::new(0, false).is_due(u64::MAX));
    }

    #[test]
    fn what_a_restart_needs_stays() {
        let mut log = LogBase::new(100, false);
        log.note(&base(100, 7, &[5, 5]), 1);
        assert_eq!(log.trim(&checkpoint(6, &[]), Keeps::Order), None);
        assert_eq!(log.trim(&checkpoint(9, &[5, 4]), Keeps::Productions), None);
        assert_eq!(
            log.trim(&checkpoint(9, &[5, 5, 0]), Keeps::Productions),
            Some(100)
        );
        assert_eq!(
            log.trim(&checkpoint(9, &[5, 5, 0]), Keeps::Productions),
            None,
            "once"
        );
        log.note(&base(300, 12, &[]), 1);
        log.void(11);
        assert_eq!(log.trim(&checkpoint(20, &[]), Keeps::Order), None, "it is void");
    }

    #[test]
    fn a_log_that_is_kept_still_gets_bases() {
        let mut log = LogBase::new(100, true);
        log.note(&base(100, 7, &[]), 1);
        assert_eq!(log.trim(&checkpoint(7, &[]), Keeps::Order), None);
        assert!(!log.is_due(199) && log.is_due(200));
    }
}
