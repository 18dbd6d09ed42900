//! The task's operator: inside the worker, or a child process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::batch::{Batch, Builder};
use common::control::{OpCode, OpSpec, TaskPlan};
use hydfs::client::Client;
use ops::{Emit, Operator, foreign, operator};

use crate::task::router::Router;

pub enum Runner {
    Builtin(Box<dyn Operator>),
    Foreign(Box<foreign::Process>),
}

/// What a foreign operator answered, until it can be routed.
#[derive(Default)]
pub struct Collected(Builder);

impl Emit for Collected {
    fn emit(&mut self, key: &[u8], value: &[u8]) {
        self.0.push(key, value);
    }
}

impl Collected {
    pub fn route(mut self, router: &mut Router<'_>) {
        self.0.take().for_each(|key, value| router.emit(key, value));
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
                let task = plan.task;
                let said = move |line: &str| tracing::info!(%task, line, "OP_STDERR");
                let timeout = Duration::from_millis(plan.op_timeout_ms);
                let spec = foreign::Spec {
                    kind: op.kind,
                    protocol: *protocol,
                    keys: *keys,
                };
                let child = foreign::Process::start(&exe, &op.args, &env, &spec, timeout, said).await;
                Ok(Self::Foreign(Box::new(
                    child.map_err(|e| operator::Error::fatal(e.to_string()))?,
                )))
            }
        }
    }

    pub fn finish(&mut self, router: &mut Router<'_>) -> Result<(), operator::Error> {
        match self {
            Self::Builtin(op) => op.finish(router),
            Self::Foreign(_) => Ok(()),
        }
    }
}

/// The executable's path on this node. Several tasks may fetch it at the same time: each writes a file of its own and
/// renames it.
async fn fetch(client: &Client, name: &str, folder: &Path, hash: &str) -> Result<PathBuf, operator::Error> {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(hash);
    if path.exists() {
        return Ok(path);
    }
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
    let mut content = Vec::new();
    let mut pieces = client.stream(name, 0..u64::MAX);
    while let Some(piece) = pieces.next().await {
        content.extend_from_slice(&piece.map_err(|e| failed(format!("cannot fetch operator {name}: {e}")))?);
    }
    std::fs::create_dir_all(folder).map_err(io)?;
    let own = folder.join(format!(".{hash}.{}", std::process::id()));
    std::fs::write(&own, content).map_err(io)?;
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755)).map_err(io)?;
    std::fs::rename(&own, &path).map_err(io)?;
    Ok(path)
}

/// Runs a foreign operator on a batch; its answers are collected.
pub async fn run_foreign(child: &mut foreign::Process, batch: &Batch) -> Result<Collected, operator::Error> {
    let mut collected = Collected::default();
    child.process(batch, &mut collected).await?;
    Ok(collected)
}
