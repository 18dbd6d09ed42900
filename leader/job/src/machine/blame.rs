//! Whom a failure is blamed on, and how often in a row.

use common::ids::Epoch;
use protocol::control::{Failure, Unit};

/// Failures that an operator, not a kill, is to blame for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Blame {
    key: Option<String>,
    unit: Option<Unit>,
    /// In a row: at the same tuple, or without progress.
    count: u32,
    /// The task has achieved something since.
    pub progressed: bool,
    /// The newest epoch counted: a failure is told twice, by a message and by the exit's code.
    epoch: Epoch,
    stderr: Vec<String>,
}

impl Blame {
    /// The reason for the failures is out of the way.
    pub fn begin_anew(&mut self) {
        *self = Blame {
            epoch: self.epoch,
            ..Blame::default()
        };
    }

    /// Counts a failure of the process of that epoch. False when one of it is counted already.
    pub fn charge(&mut self, epoch: Epoch, failure: &Failure) -> bool {
        if epoch <= self.epoch {
            return false;
        }
        self.epoch = epoch;
        // Without a name it may be the same failure, less well told, if nothing was achieved in between.
        let named = failure.unit.is_some() || failure.key.is_some();
        let again = match (failure.unit, self.unit) {
            (Some(now), Some(before)) => now == before,
            _ => failure.key.is_some() && failure.key == self.key,
        };
        let same = self.count > 0 && (again || (!named && !self.progressed));
        self.progressed = false;
        self.count = if same { self.count + 1 } else { 1 };
        if named || !same {
            self.key.clone_from(&failure.key);
            self.unit = failure.unit;
        }
        if !failure.stderr.is_empty() {
            self.stderr.clone_from(&failure.stderr);
        }
        true
    }

    /// How many in a row.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// It is known at which tuple.
    pub fn is_known(&self) -> bool {
        self.unit.is_some()
    }

    /// The failure, with what is known of those before it.
    pub fn complete(&self, failure: Failure) -> Failure {
        Failure {
            key: self.key.clone(),
            stderr: self.stderr.clone(),
            ..failure
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::ids::TaskId;

    fn failure(number: Option<u64>) -> Failure {
        let unit = |number| Unit {
            from: TaskId::new(0, 0),
            number,
        };
        Failure {
            what: "boom".into(),
            key: number.map(|n| format!("k{n}")),
            unit: number.map(unit),
            stderr: vec![],
            fatal: false,
        }
    }

    #[test]
    fn failures_count_in_a_row_at_one_tuple_or_without_progress() {
        let mut blame = Blame::default();
        let charge = |blame: &mut Blame, epoch, at| {
            let counted = blame.charge(Epoch(epoch), &failure(at));
            (counted, blame.count())
        };
        assert_eq!(charge(&mut blame, 1, Some(7)), (true, 1));
        assert_eq!(charge(&mut blame, 1, Some(7)), (false, 1), "it is told twice");
        assert_eq!(charge(&mut blame, 2, None), (true, 2), "less well told");
        assert!(blame.is_known() && blame.complete(failure(None)).key.as_deref() == Some("k7"));
        blame.progressed = true;
        assert_eq!(
            charge(&mut blame, 3, Some(7)),
            (true, 3),
            "the same tuple, whatever came before"
        );
        assert_eq!(charge(&mut blame, 4, Some(8)), (true, 1));
        blame.progressed = true;
        assert_eq!(charge(&mut blame, 5, None), (true, 1));
        blame.begin_anew();
        assert_eq!(charge(&mut blame, 5, None), (false, 0), "that process is counted");
        assert_eq!(charge(&mut blame, 6, None), (true, 1));
    }
}
