//! A base against what the records before it come to; or, where these are gone, the place from which on the log is replayed.

use protocol::task_log::{Base, Digest};

use super::cut;
use super::log::{Check, Gone};
use super::state::State;

impl Check<'_> {
    pub(super) fn base(&mut self, base: Box<Base>) {
        let begins = self.base.is_none() && self.begin > 0 && self.byte == self.begin;
        if base.at != self.byte {
            let what = format!("a base that was written for byte {}", base.at);
            self.wrong(Some(base.cut.pos), what);
        }
        match begins {
            true => self.begin_at(base),
            false => self.compare(&base),
        }
    }

    /// Nothing before it is there to be replayed: what it says is believed, and all that follows must agree with it.
    fn begin_at(&mut self, base: Box<Base>) {
        let (cut, plan) = (&base.cut, self.plan);
        self.log.epochs.push(base.epoch);
        self.log.pos = cut.pos;
        self.log.state = State::at(&base, plan);
        self.log.gone = Some(Gone {
            orders: cut.pos,
            processes: base.processes.saturating_sub(1),
        });
        self.at_checkpoint = self.log.state.clone();
        self.digest = Digest(base.digest);
        self.told = cut.source.clone();
        self.kept.begin_at(&cut.emitted);
        let wrong = self.outputs_wrong(&base);
        self.all_wrong(base.cut.pos, wrong);
        self.base = Some(base);
    }

    /// Where its outputs are not what the log comes to, or do not agree with each other.
    fn outputs_wrong(&self, base: &Base) -> Vec<String> {
        let (state, len) = (&self.log.state, self.snapshot_len);
        let mut wrong = cut::wrong(&base.cut, None, state, self.plan, self.shape, len);
        if base.receivers != state.targets || base.active != state.active_tasks() {
            wrong.push(
                "it says that its outputs lead to other tasks than by the plan and the order records".into(),
            );
        }
        wrong
    }

    fn compare(&mut self, base: &Base) {
        let (cut, pos) = (&base.cut, base.cut.pos);
        let mut wrong = vec![];
        if pos != self.log.pos {
            wrong.push(format!(
                "a base of position {pos}; the log had come to {}",
                self.log.pos
            ));
        }
        if self.log.epochs.last() != Some(&base.epoch) {
            wrong.push(format!("a base of epoch {}, which was not at work", base.epoch));
        }
        let before = self.log.gone.map_or(0, |gone| gone.processes);
        let processes = before.saturating_add(self.log.epochs.len() as u64);
        let first = self.base.as_ref().map_or(0, |first| first.checkpoints);
        let counts = [
            ("processes", base.processes, processes),
            (
                "checkpoints",
                base.checkpoints,
                first.saturating_add(self.log.checkpoints),
            ),
        ];
        for (what, says, is) in counts.into_iter().filter(|(_, says, is)| says != is) {
            wrong.push(format!(
                "it says that there were {says} {what}, the log comes to {is}"
            ));
        }
        if base.digest != self.digest.0 {
            wrong.push(
                "the records before it are not those that it was written behind: their digest differs".into(),
            );
        }
        wrong.extend(self.log.state.differs(cut, self.plan));
        wrong.extend(self.outputs_wrong(base));
        wrong.extend(self.kept.stands_at(&cut.emitted));
        self.all_wrong(pos, wrong);
    }
}
