//! A unit of work: what the protocol hands out goes through the operator, what comes of it is routed.

use std::time::Duration;

use common::clock;
use common::ids::TaskId;
use protocol::control::{Failure, ToLeader};
use protocol::task_log::{Order, SourceRun};

use super::End;
use super::engine::Engine;
use super::operator::Runner;
use crate::source;
use crate::task::{Done, Work};

/// What a piece of work came to.
pub(super) enum Step {
    Worked,
    Idle,
}

impl Engine {
    pub(super) async fn step(&mut self) -> Result<Step, End> {
        let Some(work) = self.task.next_work() else {
            return Ok(Step::Idle);
        };
        match work {
            Work::Source(replay) => return self.read(replay).await,
            Work::InputEnd { from, at } => {
                self.task.complete(Done {
                    order: Order::InputEnd { from, at },
                    bytes_in: 0,
                });
            }
            Work::Route(route) => self.rerouted(route),
            Work::Mark { from, at, route } => {
                self.task.complete(Done {
                    order: Order::Mark {
                        from,
                        at,
                        version: route.version,
                        tasks: route.tasks,
                    },
                    bytes_in: 0,
                });
            }
            Work::Adopt {
                from,
                start,
                end,
                state,
            } => {
                if let Some(Runner::Builtin(op)) = &mut self.runner {
                    op.adopt(&state)?;
                }
                self.task.complete(Done {
                    order: Order::Adopt { from, start, end },
                    bytes_in: 0,
                });
            }
            Work::HandOver { version, to } => self.hand_over(version, to),
            Work::Finish => {
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
                self.task.complete(Done {
                    order: Order::Finish,
                    bytes_in: 0,
                });
            }
            Work::Input {
                from,
                start,
                end,
                born_us,
                batch,
            } => {
                let age = clock::unix_micros().saturating_sub(born_us);
                self.task.note_age(Duration::from_micros(age));
                match self.runner.take() {
                    Some(Runner::Builtin(mut op)) => {
                        let done = op.process(&batch, &mut self.task.router(born_us));
                        done.map_err(|e| self.stumbled(from, start, e))?;
                        self.runner = Some(Runner::Builtin(op));
                    }
                    Some(mut child) => {
                        let mut collected = std::mem::take(&mut self.collected);
                        let done = self.beside(child.process(&batch, &mut collected)).await?;
                        done.map_err(|e| self.stumbled(from, start, e))?;
                        collected.route(&mut self.task.router(born_us));
                        self.collected = collected;
                        self.runner = Some(child);
                    }
                    None => {}
                }
                let bytes_in = batch.bytes() as u64;
                self.task.complete(Done {
                    order: Order::Input { from, start, end },
                    bytes_in,
                });
            }
        }
        Ok(Step::Worked)
    }

    /// The operator cannot digest a tuple of the batch that began at unit `start`.
    fn stumbled(&self, from: TaskId, start: u64, error: ops::operator::Error) -> End {
        let unit = error.index.map(|index| self.task.unit(from, start, index as u64));
        End::Failed(Failure { unit, ..error.into() })
    }

    /// Awaits something slow while events and appends go on.
    async fn beside<T>(&mut self, slow: impl Future<Output = T>) -> Result<T, End> {
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
                () = clock::sleep_until(clock::now() + Duration::from_millis(20)) => {}
            }
            self.settle()?;
        }
    }

    async fn read(&mut self, replay: Option<SourceRun>) -> Result<Step, End> {
        let place = self.task.now().source.clone();
        let Some(source) = &mut self.source else {
            return Ok(Step::Idle);
        };
        for word in self.source_words.drain(..) {
            source.hear(word);
        }
        if replay.is_none() && source.is_end(&place) {
            self.task.complete(Done {
                order: Order::Finish,
                bytes_in: 0,
            });
            return Ok(Step::Worked);
        }
        let most = if replay.is_some() {
            u64::MAX
        } else {
            self.pace.allowed(clock::now())
        };
        if most == 0 {
            return Ok(Step::Idle);
        }
        let Some(mut reader) = self.source.take() else {
            return Ok(Step::Idle);
        };
        let block = self.beside(reader.next(&place, most, replay)).await??;
        let Some(block) = block else {
            self.source = Some(reader);
            self.dry_since.get_or_insert_with(clock::now);
            self.pace.rest();
            return Ok(Step::Idle);
        };
        self.dry_since = None;
        if self.first_read_us == 0 {
            self.first_read_us = clock::unix_micros();
        }
        let (file, small) = (reader.file(block.run.slice), reader.is_small(block.run.slice));
        if let Some(encoding) = block.wide_encoding() {
            let _ = self.control.to_leader.send(ToLeader::WideText {
                file: String::from_utf8_lossy(&file).into_owned(),
                encoding: encoding.to_owned(),
            });
        }
        source::emit(&block, &file, small, &mut self.task.router(clock::unix_micros()));
        if replay.is_none() {
            self.pace.took(block.run.lines);
        }
        let bytes_in = block.data.len() as u64;
        self.task.complete(Done {
            order: Order::Source(block.run),
            bytes_in,
        });
        self.source = Some(reader);
        Ok(Step::Worked)
    }

    /// Puts the operator's state into the snapshot file when it is time to.
    pub(super) async fn snapshot_if_due(&mut self) -> Result<(), End> {
        let Some(snapshots) = &self.storage.snapshots else {
            return Ok(());
        };
        if snapshots.is_under_way() || !self.task.wants_snapshot(clock::now()) {
            return Ok(());
        }
        let rewrite = snapshots.rewrite();
        let Some(mut runner) = self.runner.take() else {
            return Ok(());
        };
        let (bytes, ended) = match &mut runner {
            Runner::Builtin(_) => runner.snapshot(rewrite).await?,
            Runner::Foreign(_) => self.beside(runner.snapshot(rewrite)).await??,
        };
        self.runner = Some(runner);
        if let Some(snapshots) = &mut self.storage.snapshots {
            snapshots.append(self.task.now().clone(), bytes, ended);
        }
        Ok(())
    }
}
