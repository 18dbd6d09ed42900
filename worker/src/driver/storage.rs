//! What the task keeps in HyDFS: its log, its stream into the destination, its snapshots.

use std::sync::Arc;

use bytes::Bytes;
use common::hold::Hold;
use common::ids::Epoch;
use hydfs::client::{Appender, Client, Error};
use protocol::control::TaskPlan;
use protocol::task_log::Cut;

use crate::task::HOLD;

pub struct Storage {
    pub log: Option<File>,
    /// By output that is a stream into a file: the destination, and the place for tuples set aside.
    pub outputs: Vec<(usize, File)>,
    pub snapshots: Option<File>,
}

/// A file that the task appends to.
pub struct File {
    appender: Appender,
    /// What the task was told of it.
    told: u64,
}

impl File {
    fn new(appender: Appender) -> Self {
        Self {
            told: appender.acked(),
            appender,
        }
    }

    /// How many bytes of the task it had when it was opened.
    pub fn length(&self) -> u64 {
        self.appender.length()
    }

    pub fn append(&mut self, bytes: impl Into<Bytes>) {
        self.appender.append(bytes);
    }

    /// All below `base` may go.
    pub fn trim(&mut self, base: u64) {
        self.appender.trim(base);
    }

    /// Up to where it is durable, if that is further than was said before.
    pub fn news(&mut self) -> Option<u64> {
        let acked = self.appender.acked();
        (acked > std::mem::replace(&mut self.told, acked)).then_some(acked)
    }
}

/// A log as it is read back.
#[derive(Debug, Default)]
pub struct Log {
    /// Where it begins: below that it was trimmed.
    pub begin: u64,
    pub content: Vec<u8>,
}

fn file_name(plan: &TaskPlan, kind: &str) -> String {
    format!("jobs/{}/{}.{kind}", plan.job, plan.task)
}

impl Storage {
    /// Opens what the plan asks for, fencing out every older process of this task, and reads the log back.
    pub async fn open(plan: &TaskPlan, stateful: bool, client: &Client) -> Result<(Self, Log), Error> {
        let task = plan.task.to_string();
        if !plan.exactly_once {
            // Each process has a stream of its own: what the last one wrote is neither known nor repeated by number.
            let writer = format!("{}/{task}#{}", plan.job, plan.epoch);
            let outputs = Self::open_outputs(plan, &writer, Epoch(1), client).await?;
            return Ok((
                Self {
                    log: None,
                    outputs,
                    snapshots: None,
                },
                Log::default(),
            ));
        }
        let log_name = file_name(plan, "log");
        let open_log = async {
            let log = client.open_append(&log_name, &task, plan.epoch, true).await?;
            let (begin, end) = (log.base(), log.length());
            let content = read_range(client, &log_name, begin, end - begin).await?;
            let content = Log { begin, content };
            Ok::<_, Error>((log, content))
        };
        let writer = format!("{}/{task}", plan.job);
        let open_outputs = Self::open_outputs(plan, &writer, plan.epoch, client);
        let open_snapshots = async {
            match stateful {
                true => Ok::<_, Error>(Some(
                    client
                        .open_append(&file_name(plan, "snap"), &task, plan.epoch, true)
                        .await?,
                )),
                false => Ok(None),
            }
        };
        let ((log, content), outputs, snapshots) = tokio::try_join!(open_log, open_outputs, open_snapshots)?;
        Ok((
            Self {
                log: Some(File::new(log)),
                outputs,
                snapshots: snapshots.map(File::new),
            },
            content,
        ))
    }

    async fn open_outputs(
        plan: &TaskPlan,
        writer: &str,
        epoch: Epoch,
        client: &Client,
    ) -> Result<Vec<(usize, File)>, Error> {
        let mut outputs = vec![];
        let last = plan.downstream.len().max(usize::from(plan.dest.is_some()));
        let aside = plan.poison.as_ref().filter(|_| plan.op.is_some());
        let dest = plan.dest.as_ref();
        for (output, name, of, create) in [(0, dest, plan.dest_creation, false), (last, aside, None, true)] {
            if let Some(name) = name {
                let file = (&**name, of);
                let mut appender = client.open_append(file, writer, epoch, create).await?;
                appender.hold(HOLD);
                outputs.push((output, File::new(appender)));
            }
        }
        Ok(outputs)
    }

    /// By output: how many bytes of the task its file had when it was opened.
    pub fn output_lengths(&self) -> Vec<(usize, u64)> {
        let outputs = self.outputs.iter();
        outputs.map(|(output, file)| (*output, file.length())).collect()
    }

    pub fn append_output(&mut self, output: usize, bytes: Bytes) {
        if let Some((_, file)) = self.outputs.iter_mut().find(|(of, _)| *of == output) {
            file.append(bytes);
        }
    }

    /// Nothing more will come for the outputs: what is there is not held back.
    pub fn hurry(&mut self) {
        for (_, file) in &mut self.outputs {
            file.appender.hold(Hold::NONE);
        }
    }

    /// The operator's state at a cut.
    pub async fn read_snapshot(plan: &TaskPlan, cut: &Cut, client: &Client) -> Result<Vec<Bytes>, Error> {
        let name = file_name(plan, "snap");
        let mut parts = Vec::new();
        for (offset, len) in &cut.snapshot {
            parts.push(read_range(client, &name, *offset, *len).await?.into());
        }
        Ok(parts)
    }

    /// Resolves when something that was appended has been acknowledged. Cancel-safe.
    pub async fn changed(&mut self) -> Result<(), Error> {
        let outputs = self.outputs.iter_mut().map(|(_, file)| file);
        let files = self.log.iter_mut().chain(outputs).chain(&mut self.snapshots);
        let waiting = files.map(|f| &mut f.appender).filter(|a| a.acked() < a.queued());
        let mut changes: Vec<_> = waiting.map(|a| Box::pin(a.changed())).collect();
        if changes.is_empty() {
            std::future::pending::<()>().await;
        }
        std::future::poll_fn(|cx| {
            for change in &mut changes {
                if let std::task::Poll::Ready(done) = change.as_mut().poll(cx) {
                    return std::task::Poll::Ready(done);
                }
            }
            std::task::Poll::Pending
        })
        .await?;
        Ok(())
    }
}

/// Exactly these bytes: they are known to be committed, so a reader that is told less asks again.
async fn read_range(client: &Client, name: &str, offset: u64, len: u64) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(len as usize);
    while (out.len() as u64) < len {
        let at = offset + out.len() as u64;
        let want = (len - out.len() as u64) as usize;
        let piece = client
            .tail(name, at, want, std::time::Duration::from_secs(5))
            .await?;
        out.extend_from_slice(&piece);
    }
    Ok(out)
}

/// Shared by everything that names the process in a log line.
pub type Plan = Arc<TaskPlan>;
