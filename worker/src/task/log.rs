//! What goes into the log and when: order records at once, checkpoints when the outputs behind them have arrived,
//! snapshots as the operator's state is stored.

use super::*;

/// With this much to append, it is not held back.
const GROUP_BYTES: usize = 64 * 1024;

/// The log of a task whose outputs wait for nothing is appended to this often: what comes of it is how much is read again after a restart.
const FIXED_EVERY: Duration = Duration::from_millis(50);
/// Where tuples are old when they come, as under full load, records may be gathered for this part of their age: appends cost the storage nodes
/// more than the tuples cost this task.
const OLDER: u32 = 4;

/// An append to the log under way.
#[derive(Debug)]
pub(super) struct Append {
    /// The log's end behind it.
    end: u64,
    /// The newest order record in it.
    pos: u64,
    checkpoint: Option<Box<Cut>>,
    since: Time,
}

impl Task {
    /// Is it time to put the operator's state, as it is after the last completed work, into the snapshot file?
    pub fn wants_snapshot(&mut self, now: Time) -> bool {
        let wants = self.config.stateful
            && self.now.pos > self.snapshot_pos
            && (now >= self.snapshot_due
                || self.bytes_since_snapshot >= self.config.window_bytes / 4
                || self.now.done);
        if wants {
            self.snapshot_began = now;
        }
        wants
    }

    /// So long ago the tuples at hand were read by their source.
    pub fn note_age(&mut self, age: Duration) {
        self.age = age;
    }

    /// The operator's state as it was at `cut` is in these extents of the snapshot file, and they are durable.
    pub fn snapshotted(&mut self, now: Time, cut: Cut, extents: Vec<(u64, u64)>) {
        self.snapshot_pos = cut.pos;
        let hold = now.since(self.snapshot_began) * SNAPSHOT_TIMES;
        self.snapshot_due = now + hold.clamp(SNAPSHOT_EVERY.0, SNAPSHOT_EVERY.1);
        self.bytes_since_snapshot = 0;
        self.now.snapshot = extents.clone();
        self.cuts.push_back(Cut {
            snapshot: extents,
            ..cut
        });
    }

    /// Records to append to the log now; empty when there is nothing. With a checkpoint when one is due.
    pub fn take_records(&mut self, now: Time) -> Vec<u8> {
        // One append at a time: what comes meanwhile shares the next one. Under load that is many records.
        let held = !self.appends.is_empty() || (now < self.append_at && !self.now.done);
        if held && self.pending.len() < GROUP_BYTES {
            return Vec::new();
        }
        // What is open depends on what goes now, and on nothing later: closed here, it leaves with the append's end, and never waits for the next.
        if self.log_closes_outputs() {
            self.close_outputs();
        }
        self.make_checkpoint(now);
        let bytes = std::mem::take(&mut self.pending);
        if !bytes.is_empty() {
            self.log_end += bytes.len() as u64;
            self.appends.push_back(Append {
                end: self.log_end,
                pos: self.pending_pos,
                checkpoint: self.pending_checkpoint.take(),
                since: now,
            });
        }
        bytes
    }

    /// What is open waits for the next append to the log anyway: that closes it.
    pub fn log_closes_outputs(&self) -> bool {
        self.config.exactly_once && !self.config.fixed && !self.pending.is_empty()
    }

    /// The newest cut whose outputs are all acknowledged becomes a checkpoint; where the log holds what it takes to give
    /// them again, any cut.
    fn make_checkpoint(&mut self, now: Time) {
        while self.cuts.len() > 1 && self.is_passed(&self.cuts[1]) {
            self.cuts.pop_front();
        }
        let again = self.is_to_be_noted();
        let Some(cut) = self.cuts.front().filter(|c| c.pos > self.checkpoint_pos || again) else {
            return;
        };
        let since = now.since(self.checkpoint_at);
        let due = since >= CHECKPOINT_EVERY
            || (since >= CHECKPOINT_RIDES && !self.pending.is_empty())
            || self.bytes_since_checkpoint >= self.config.window_bytes / 4
            || cut.done
            || again;
        if !due {
            return;
        }
        let mut cut = Box::new(cut.clone());
        if self.config.keeps != Keeps::Order {
            // Outputs that came later are not the cut's.
            let outputs = self.outputs.iter().zip(&cut.emitted);
            cut.acked = outputs.map(|(o, emitted)| o.acked().min(*emitted)).collect();
            self.noted.clone_from(&cut.acked);
        }
        self.checkpoint_pos = cut.pos;
        self.checkpoint_at = now;
        self.bytes_since_checkpoint = 0;
        if self.config.exactly_once {
            let record = Record::Checkpoint(cut.clone());
            task_log::encode(&record, &mut self.pending);
            self.pending_checkpoint = Some(cut);
        } else {
            self.checkpoint = *cut;
        }
    }

    fn is_passed(&self, cut: &Cut) -> bool {
        // The log itself can give everything again.
        if self.config.keeps != Keeps::Order {
            return true;
        }
        // A cut may be passed before its own order record is durable: both are in the log by the time that the
        // checkpoint is, since the log keeps their order.
        self.outputs
            .iter()
            .zip(&cut.emitted)
            .all(|(o, emitted)| o.acked() >= *emitted)
    }

    /// When to look at [`Task::take_records`] again although nothing happens: records were held back until then, or a
    /// checkpoint is due. What is due already waits for something to happen.
    pub fn log_deadline(&self, now: Time) -> Option<Time> {
        let waiting = self.cuts.back().is_some_and(|c| c.pos > self.checkpoint_pos);
        let checkpoint = waiting.then_some(self.checkpoint_at + CHECKPOINT_EVERY);
        let records = (!self.pending.is_empty() && self.appends.is_empty()).then_some(self.append_at);
        checkpoint.into_iter().chain(records).filter(|d| *d > now).min()
    }

    pub fn snapshot_deadline(&self) -> Option<Time> {
        (self.config.stateful && self.now.pos > self.snapshot_pos).then_some(self.snapshot_due)
    }

    /// Everything below `offset` of the log is durable. True if that is more order records than before.
    pub fn logged(&mut self, now: Time, offset: u64) -> bool {
        let before = self.durable;
        while self.appends.front().is_some_and(|a| a.end <= offset) {
            let Some(append) = self.appends.pop_front() else {
                break;
            };
            let hold = match self.config.fixed {
                true => FIXED_EVERY,
                false => HOLD
                    .after(now.since(append.since))
                    .max((self.age / OLDER).min(HOLD.most)),
            };
            self.append_at = now + hold;
            self.durable = self.durable.max(append.pos);
            if let Some(cut) = append.checkpoint {
                self.checkpoint = *cut;
            }
        }
        self.durable > before
    }

    /// The order records that outputs may depend on when they leave.
    pub fn durable(&self) -> u64 {
        #[cfg(test)]
        if self.config.mutant == Mutant::EarlySend {
            return u64::MAX;
        }
        #[cfg(test)]
        if self.config.mutant == Mutant::Ungated {
            return self.durable;
        }
        if self.config.fixed {
            return u64::MAX;
        }
        // A state that came to be by chance must be stored before anybody sees what it led to.
        if self.config.stateful && self.config.keeps == Keeps::Productions {
            return self.checkpoint.pos;
        }
        self.durable
    }

    /// End of the log, counting what is under way.
    pub fn log_end(&self) -> u64 {
        self.log_end
    }
}

#[cfg(test)]
mod tests;
