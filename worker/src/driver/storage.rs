//! What the task keeps in HyDFS: its log, its stream into the destination, its snapshots.

use std::sync::Arc;

use bytes::Bytes;
use common::control::TaskPlan;
use common::ids::Epoch;
use hydfs::client::{Appender, Client, Error};

use common::task_log::Cut;

/// A snapshot file's deltas are folded into one full snapshot when they are this many, or outgrow the base.
const MAX_DELTAS: usize = 64;

pub struct Storage {
    pub log: Option<Appender>,
    pub dest: Option<Appender>,
    pub snapshots: Option<Snapshots>,
}

/// The snapshot file, append-only; a cut names the extents that make its state.
pub struct Snapshots {
    pub appender: Appender,
    pub extents: Vec<(u64, u64)>,
    /// Cut, extents and the file offset that must be durable for them.
    pub under_way: Option<(Cut, u64)>,
}

impl Snapshots {
    /// Should the next snapshot hold the whole state?
    pub fn wants_full(&self) -> bool {
        let base = self.extents.first().map_or(0, |e| e.1);
        let deltas: u64 = self.extents.iter().skip(1).map(|e| e.1).sum();
        self.extents.is_empty() || self.extents.len() > MAX_DELTAS || deltas > 2 * base.max(64 * 1024)
    }

    pub fn append(&mut self, cut: Cut, bytes: Vec<u8>, full: bool) {
        if full {
            self.extents.clear();
        }
        if !bytes.is_empty() {
            self.extents.push((self.appender.queued(), bytes.len() as u64));
            self.appender.append(bytes);
        }
        self.under_way = Some((cut, self.appender.queued()));
    }
}

fn file(plan: &TaskPlan, kind: &str) -> String {
    format!("jobs/{}/{}.{kind}", plan.job, plan.task)
}

impl Storage {
    /// Opens what the plan asks for, fencing out every older process of this task, and reads the log back.
    pub async fn open(plan: &TaskPlan, stateful: bool, client: &Client) -> Result<(Self, Vec<u8>), Error> {
        let task = plan.task.to_string();
        if !plan.exactly_once {
            // Each process has a stream of its own: what the last one wrote is neither known nor repeated by number.
            let dest = match &plan.dest {
                Some(dest) => {
                    let process = format!("{}/{task}#{}", plan.job, plan.epoch);
                    Some(client.open_append(dest, &process, Epoch(1), false).await?)
                }
                None => None,
            };
            return Ok((
                Self {
                    log: None,
                    dest,
                    snapshots: None,
                },
                Vec::new(),
            ));
        }
        let log_name = file(plan, "log");
        let open_log = async {
            let log = client.open_append(&log_name, &task, plan.epoch, true).await?;
            let content = read_all(client, &log_name, log.length()).await?;
            Ok::<_, Error>((log, content))
        };
        let open_dest = async {
            match &plan.dest {
                Some(dest) => {
                    let writer = format!("{}/{task}", plan.job);
                    Ok(Some(client.open_append(dest, &writer, plan.epoch, false).await?))
                }
                None => Ok::<_, Error>(None),
            }
        };
        let open_snapshots = async {
            match stateful {
                true => Ok::<_, Error>(Some(
                    client
                        .open_append(&file(plan, "snap"), &task, plan.epoch, true)
                        .await?,
                )),
                false => Ok(None),
            }
        };
        let ((log, content), dest, snapshots) = tokio::try_join!(open_log, open_dest, open_snapshots)?;
        let snapshots = snapshots.map(|appender| Snapshots {
            appender,
            extents: vec![],
            under_way: None,
        });
        Ok((
            Self {
                log: Some(log),
                dest,
                snapshots,
            },
            content,
        ))
    }

    /// The operator's state at a cut.
    pub async fn read_snapshot(plan: &TaskPlan, cut: &Cut, client: &Client) -> Result<Vec<Bytes>, Error> {
        let name = file(plan, "snap");
        let mut parts = Vec::new();
        for (offset, len) in &cut.snapshot {
            parts.push(read_range(client, &name, *offset, *len).await?.into());
        }
        Ok(parts)
    }

    /// Resolves when something that was appended has been acknowledged. Cancel-safe.
    pub async fn changed(&mut self) -> Result<(), Error> {
        async fn one(appender: Option<&mut Appender>) -> Result<u64, Error> {
            match appender {
                Some(appender) if appender.acked() < appender.queued() => appender.changed().await,
                _ => std::future::pending().await,
            }
        }
        tokio::select! {
            done = one(self.log.as_mut()) => done?,
            done = one(self.dest.as_mut()) => done?,
            done = one(self.snapshots.as_mut().map(|s| &mut s.appender)) => done?,
        };
        Ok(())
    }
}

async fn read_all(client: &Client, name: &str, len: u64) -> Result<Vec<u8>, Error> {
    read_range(client, name, 0, len).await
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
