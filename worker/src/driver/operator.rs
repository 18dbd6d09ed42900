//! The task's operator: inside the worker, or a child process.

use std::path::Path;
use std::time::Duration;

use common::cluster::Keep;

use common::work_folder::WorkFolder;
use hydfs::client::Client;
use ops::{Emit, Operator, foreign, operator};
use protocol::batch::{Batch, Builder};
use protocol::control::{OpCode, OpSpec, TaskPlan};

use super::copies::{self, Copy};
use crate::task::router::Router;

pub enum Runner {
    Builtin(Box<dyn Operator>),
    /// The program is not removed from the node's disk while it runs.
    Foreign(Box<foreign::Process>, Copy),
}

/// What a foreign operator answered, until it can be routed. Its memory is used again.
#[derive(Default)]
pub struct Collected(Builder);

impl Emit for Collected {
    fn emit(&mut self, key: &[u8], value: &[u8]) {
        self.0.push(key, value);
    }
}

impl Collected {
    pub fn route(&mut self, router: &mut Router<'_>) {
        self.0.drain(|key, value| router.emit(key, value));
    }
}

impl Runner {
    /// Makes the operator ready; a foreign one is fetched from HyDFS once per node and content.
    pub async fn start(
        plan: &TaskPlan,
        op: &OpSpec,
        client: &Client,
        data: &Path,
        keep: Keep,
    ) -> Result<Self, operator::Error> {
        match &op.code {
            OpCode::Builtin => {
                let built = ops::builtin(&op.exe, &op.args);
                Ok(Self::Builtin(
                    built.map_err(|e| operator::Error::fatal(e.to_string()))?,
                ))
            }
            OpCode::Foreign {
                hydfs_name,
                hash,
                protocol,
                keys,
                ..
            } => {
                let copy = copies::fetch(client, hydfs_name, &data.join("operators"), hash, keep).await?;
                let env = [
                    ("RAINSTORM_JOB".to_owned(), plan.job.to_string()),
                    ("RAINSTORM_TASK".to_owned(), plan.task.to_string()),
                    ("RAINSTORM_STAGE".to_owned(), plan.task.stage.to_string()),
                ];
                let said = |line: &str| tracing::info!(line, "OP_STDERR");
                let timeout = Duration::from_millis(plan.op_timeout_ms);
                let spec = foreign::Spec {
                    kind: op.kind,
                    protocol: *protocol,
                    keys: *keys,
                };
                let folder = WorkFolder::make(data, &plan.job, plan.task, plan.epoch).map_err(|e| {
                    operator::Error {
                        restart_helps: true,
                        ..operator::Error::fatal(format!(
                            "cannot make a folder for the operator to work in, under {}: {e}",
                            data.display()
                        ))
                    }
                })?;
                let child =
                    foreign::Process::start(copy.path(), &op.args, &env, &spec, Some(folder), timeout, said)
                        .await;
                let mut child = child.map_err(|e| operator::Error::fatal(e.to_string()))?;
                child.set_careful(plan.careful);
                Ok(Self::Foreign(Box::new(child), copy))
            }
        }
    }

    /// Takes in a batch and routes what becomes of it.
    pub async fn process(&mut self, batch: &Batch, out: &mut dyn Emit) -> Result<(), operator::Error> {
        match self {
            Self::Builtin(op) => op.process(batch, out),
            Self::Foreign(child, _) => child.process(batch, out).await,
        }
    }

    /// The input has ended: what was held back comes.
    pub async fn finish(&mut self, out: &mut dyn Emit) -> Result<(), operator::Error> {
        match self {
            Self::Builtin(op) => op.finish(out),
            Self::Foreign(child, _) => child.finish_input(out).await,
        }
    }

    /// Ends a foreign program: it sees the end of its input. What it still prints would be lost, and is an error.
    pub async fn end(self) -> Result<(), operator::Error> {
        match self {
            Self::Builtin(_) => Ok(()),
            Self::Foreign(child, _copy) => child.finish().await,
        }
    }

    /// What has changed of the state, and `rewrite` bytes of the rest. True: a round of rewriting ends with it.
    pub async fn snapshot(&mut self, rewrite: usize) -> Result<(Vec<u8>, bool), operator::Error> {
        match self {
            Self::Builtin(op) => {
                let mut bytes = Vec::new();
                let ended = op.snapshot(rewrite, &mut bytes);
                Ok((bytes, ended))
            }
            Self::Foreign(child, _) => child.snapshot(rewrite).await,
        }
    }

    /// What others own by now is no part of the state. Foreign operators' state stays where it is.
    pub fn forget(&mut self, is_foreign: &dyn Fn(&[u8]) -> bool) {
        struct Nowhere;
        impl Emit for Nowhere {
            fn emit(&mut self, _: &[u8], _: &[u8]) {}
        }
        if let Self::Builtin(op) = self {
            op.hand_over(is_foreign, &mut Nowhere);
        }
    }

    pub async fn restore(&mut self, part: &[u8]) -> Result<(), operator::Error> {
        match self {
            Self::Builtin(op) => op.restore(part),
            Self::Foreign(child, _) => child.restore(part).await,
        }
    }
}
