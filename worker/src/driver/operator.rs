//! The task's operator: inside the worker, or a child process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::work_folder::WorkFolder;
use hydfs::client::Client;
use ops::{Emit, Operator, foreign, operator};
use protocol::batch::{Batch, Builder};
use protocol::control::{OpCode, OpSpec, TaskPlan};

use crate::task::router::Router;

pub enum Runner {
    Builtin(Box<dyn Operator>),
    Foreign(Box<foreign::Process>),
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
                let exe = fetch(client, hydfs_name, &data.join("operators"), hash).await?;
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
                    foreign::Process::start(&exe, &op.args, &env, &spec, Some(folder), timeout, said).await;
                let mut child = child.map_err(|e| operator::Error::fatal(e.to_string()))?;
                child.set_careful(plan.careful);
                Ok(Self::Foreign(Box::new(child)))
            }
        }
    }

    /// Takes in a batch and routes what becomes of it.
    pub async fn process(&mut self, batch: &Batch, out: &mut dyn Emit) -> Result<(), operator::Error> {
        match self {
            Self::Builtin(op) => op.process(batch, out),
            Self::Foreign(child) => child.process(batch, out).await,
        }
    }

    /// The input has ended: what was held back comes.
    pub async fn finish(&mut self, out: &mut dyn Emit) -> Result<(), operator::Error> {
        match self {
            Self::Builtin(op) => op.finish(out),
            Self::Foreign(child) => child.finish_input(out).await,
        }
    }

    /// Ends a foreign program: it sees the end of its input. What it still prints would be lost, and is an error.
    pub async fn end(self) -> Result<(), operator::Error> {
        match self {
            Self::Builtin(_) => Ok(()),
            Self::Foreign(child) => child.finish().await,
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
            Self::Foreign(child) => child.snapshot(rewrite).await,
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
            Self::Foreign(child) => child.restore(part).await,
        }
    }
}

/// The executable's path on this node, with the content that the job was started with: a copy that has changed since, or was
/// cut short, is replaced. Several tasks may fetch it at the same time: each writes a file of its own and renames it.
async fn fetch(client: &Client, name: &str, folder: &Path, hash: &str) -> Result<PathBuf, operator::Error> {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(hash);
    let failed = |what: String| operator::Error {
        restart_helps: true,
        ..operator::Error::fatal(what)
    };
    let io = |e: std::io::Error| {
        failed(format!(
            "cannot keep operator {name} in {}: {e}",
            folder.display()
        ))
    };
    let is_right = |content: &[u8]| blake3::hash(content).to_hex().as_str() == hash;
    let executable = std::fs::Permissions::from_mode(0o755);
    match std::fs::read(&path) {
        Ok(content) if is_right(&content) => {
            std::fs::set_permissions(&path, executable).map_err(io)?;
            return Ok(path);
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        wrong => {
            let why = wrong.map_or_else(
                |e| e.to_string(),
                |_| "its content is not what its name says".into(),
            );
            tracing::warn!(file = %path.display(), why, "OPERATOR_COPY_REPLACED");
        }
    }
    let mut content = Vec::new();
    let mut pieces = client.stream(name, 0..u64::MAX);
    while let Some(piece) = pieces.next().await {
        content.extend_from_slice(&piece.map_err(|e| failed(format!("cannot fetch operator {name}: {e}")))?);
    }
    if !is_right(&content) {
        return Err(operator::Error::fatal(format!(
            "operator {name} in HyDFS is not what its name says ({} bytes with another hash); start the job again: its leader \
             puts the right one there",
            content.len()
        )));
    }
    std::fs::create_dir_all(folder).map_err(io)?;
    let own = folder.join(format!(".{hash}.{}", std::process::id()));
    std::fs::write(&own, content).map_err(io)?;
    std::fs::set_permissions(&own, executable).map_err(io)?;
    std::fs::rename(&own, &path).map_err(io)?;
    Ok(path)
}
