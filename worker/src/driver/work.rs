//! A unit of work: what the protocol hands out goes through the operator, what comes of it is routed.

use std::time::Duration;

use common::clock;
use common::ids::TaskId;
use protocol::batch::Batch;
use protocol::control::Failure;

use super::End;
use super::engine::Engine;
use super::operator::Runner;
use crate::task::{Input, Work};

/// What a piece of work came to.
pub(super) enum Step {
    Worked,
    Idle,
}

/// How often the engine looks after other things while it waits for something slow.
const BESIDE_EVERY: Duration = Duration::from_millis(20);

impl Engine {
    pub(super) async fn step(&mut self) -> Result<Step, End> {
        let Some(work) = self.task.next_work(clock::now()) else {
            return Ok(Step::Idle);
        };
        let mut bytes_in = 0;
        match work {
            Work::Tuples {
                from,
                start,
                born_us,
                batch,
            } => {
                bytes_in = batch.bytes() as u64;
                self.process(from, start, born_us, &batch).await?;
            }
            Work::Source(replay) => return self.read(replay).await,
            Work::Adopt { state } => {
                if let Some(Runner::Builtin(op)) = &mut self.runner {
                    op.adopt(&state)?;
                }
            }
            Work::HandOver { version, to } => {
                self.hand_over(version, &to);
                self.give(Input::WorkDone { bytes_in })?;
                self.link_up();
                return Ok(Step::Worked);
            }
            Work::Finish => self.finish().await?,
            Work::Snapshot { rewrite } => return self.snapshot(rewrite).await,
            Work::Note => {}
        }
        self.give(Input::WorkDone { bytes_in })?;
        Ok(Step::Worked)
    }

    async fn process(&mut self, from: TaskId, start: u64, born_us: u64, batch: &Batch) -> Result<(), End> {
        let age = clock::unix_micros().saturating_sub(born_us);
        self.task.note_age(Duration::from_micros(age));
        match self.runner.take() {
            Some(Runner::Builtin(mut op)) => {
                let done = op.process(batch, &mut self.task.router(born_us));
                done.map_err(|e| self.stumbled(from, start, e))?;
                self.runner = Some(Runner::Builtin(op));
            }
            Some(mut child) => {
                let mut collected = std::mem::take(&mut self.collected);
                let done = self.beside(child.process(batch, &mut collected)).await?;
                done.map_err(|e| self.stumbled(from, start, e))?;
                collected.route(&mut self.task.router(born_us));
                self.collected = collected;
                self.runner = Some(child);
            }
            None => {}
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), End> {
        let born_us = clock::unix_micros();
        match self.runner.take() {
            Some(Runner::Builtin(mut op)) => {
                op.finish(&mut self.task.router(born_us))?;
                self.runner = Some(Runner::Builtin(op));
            }
            Some(mut child) => {
                let mut collected = std::mem::take(&mut self.collected);
                self.beside(child.finish(&mut collected)).await??;
                collected.route(&mut self.task.router(born_us));
                self.collected = collected;
                // One with a state is still asked for it. Any other sees the end of its input now.
                if self.task.is_stateful() {
                    self.runner = Some(child);
                } else {
                    self.beside(child.end()).await??;
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Writes down the operator's state.
    async fn snapshot(&mut self, rewrite: usize) -> Result<Step, End> {
        let Some(mut runner) = self.runner.take() else {
            return Err(super::failed("a stateful task has no operator".into()));
        };
        let (state, round_ended) = match &mut runner {
            Runner::Builtin(_) => runner.snapshot(rewrite).await?,
            Runner::Foreign(..) => self.beside(runner.snapshot(rewrite)).await??,
        };
        self.runner = Some(runner);
        self.give(Input::SnapshotTaken { state, round_ended })?;
        Ok(Step::Worked)
    }

    /// The operator cannot digest a tuple of the batch that began at unit `start`.
    fn stumbled(&self, from: TaskId, start: u64, error: ops::operator::Error) -> End {
        let unit = error.index.map(|index| self.task.unit(from, start, index as u64));
        End::Failed(Failure { unit, ..error.into() })
    }

    /// Awaits something slow while events and appends go on.
    pub(super) async fn beside<T>(&mut self, slow: impl Future<Output = T>) -> Result<T, End> {
        tokio::pin!(slow);
        loop {
            tokio::select! {
                biased;
                done = &mut slow => return Ok(done),
                event = self.events.recv() => match event {
                    Some(event) => self.on_event(event)?,
                    None => return Err(End::LeaderLost("the control task ended".into())),
                },
                changed = self.storage.changed() => changed?,
                () = clock::sleep_until(clock::now() + BESIDE_EVERY) => {}
            }
            self.settle()?;
        }
    }
}
