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
    pub log: Option<Appender>,
    /// Outputs that are streams into files: the destination, and the place for tuples set aside.
    pub dests: Vec<Dest>,
    pub snapshots: Option<Snapshots>,
}

pub struct Dest {
    pub output: usize,
    pub appender: Appender,
    hurried: bool,
}

impl Dest {
    /// Nothing more will come: what is there is not held back.
    pub fn hurry(&mut self) {
        if !std::mem::replace(&mut self.hurried, true) {
            self.appender.hold(Hold::NONE);
        }
    }
}

/// The least that a snapshot rewrites of the state that has not changed, once rewriting is worth it.
const REWRITE: usize = 32 * 1024;
/// The file's live part may be this much larger than twice the state before it is.
const SLACK: u64 = 1024 * 1024;

/// The snapshot file, append-only. Each snapshot holds what has changed, and goes on rewriting the rest in rounds: when a
/// round ends, all that was appended before it began is of no use any more. So no snapshot is ever as large as the state.
pub struct Snapshots {
    pub appender: Appender,
    /// What makes the state, in this order.
    extents: Vec<(u64, u64)>,
    /// Where in the file the round under way began.
    round: u64,
    /// What made the state when the last round ended: at least as much as the state.
    base: u64,
    rewrite: usize,
    under_way: Option<(Cut, u64)>,
}

impl Snapshots {
    /// `extents`: what the state was restored from.
    pub fn new(appender: Appender, extents: Vec<(u64, u64)>) -> Self {
        Self {
            round: appender.queued(),
            appender,
            base: live(&extents),
            extents,
            rewrite: 0,
            under_way: None,
        }
    }

    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// How many bytes of unchanged state the next snapshot is to rewrite: none while the file's live part is about twice the
    /// state, then as many as change, so that it stays within a few times the state.
    pub fn rewrite(&self) -> usize {
        self.rewrite
    }

    /// `cut`: the place that the state belongs to. `ended`: a round ends with this.
    pub fn append(&mut self, cut: Cut, bytes: Vec<u8>, ended: bool) {
        // What is more than was asked to be rewritten had changed.
        let changed = bytes.len().saturating_sub(self.rewrite);
        let at = self.appender.queued();
        if !bytes.is_empty() {
            match self.extents.last_mut() {
                Some((start, len)) if *start + *len == at => *len += bytes.len() as u64,
                _ => self.extents.push((at, bytes.len() as u64)),
            }
            self.appender.append(bytes);
        }
        if ended {
            self.extents = since(&self.extents, self.round);
            self.round = self.appender.queued();
            self.base = live(&self.extents);
        }
        self.rewrite = match live(&self.extents) > 2 * self.base + SLACK {
            true => changed.max(REWRITE),
            false => 0,
        };
        self.under_way = Some((cut, self.appender.queued()));
    }

    /// The newest snapshot, once it is durable: its cut, and the extents that make its state.
    pub fn done(&mut self) -> Option<(Cut, Vec<(u64, u64)>)> {
        let acked = self.appender.acked();
        let (cut, _) = self.under_way.take_if(|(_, end)| *end <= acked)?;
        Some((cut, self.extents.clone()))
    }
}

fn live(extents: &[(u64, u64)]) -> u64 {
    extents.iter().map(|e| e.1).sum()
}

/// The parts of the extents from `from` on.
fn since(extents: &[(u64, u64)], from: u64) -> Vec<(u64, u64)> {
    let parts = extents.iter().filter_map(|&(start, len)| {
        let begin = start.max(from);
        let left = (start + len).checked_sub(begin).filter(|left| *left > 0)?;
        Some((begin, left))
    });
    parts.collect()
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
            let writer = format!("{}/{task}#{}", plan.job, plan.epoch);
            let dests = Self::open_dests(plan, &writer, Epoch(1), client).await?;
            return Ok((
                Self {
                    log: None,
                    dests,
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
        let writer = format!("{}/{task}", plan.job);
        let open_dests = Self::open_dests(plan, &writer, plan.epoch, client);
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
        let ((log, content), dests, snapshots) = tokio::try_join!(open_log, open_dests, open_snapshots)?;
        let snapshots = snapshots.map(|appender| Snapshots::new(appender, vec![]));
        Ok((
            Self {
                log: Some(log),
                dests,
                snapshots,
            },
            content,
        ))
    }

    async fn open_dests(
        plan: &TaskPlan,
        writer: &str,
        epoch: Epoch,
        client: &Client,
    ) -> Result<Vec<Dest>, Error> {
        let mut dests = vec![];
        let last = plan.downstream.len().max(usize::from(plan.dest.is_some()));
        let aside = plan.poison.as_ref().filter(|_| plan.op.is_some());
        let dest = plan.dest.as_ref();
        for (output, name, of, create) in [(0, dest, plan.dest_creation, false), (last, aside, None, true)] {
            if let Some(name) = name {
                let file = (&**name, of);
                let mut appender = client.open_append(file, writer, epoch, create).await?;
                appender.hold(HOLD);
                dests.push(Dest {
                    output,
                    appender,
                    hurried: false,
                });
            }
        }
        Ok(dests)
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
        let Self {
            log,
            dests,
            snapshots,
        } = self;
        let appenders = log
            .iter_mut()
            .chain(dests.iter_mut().map(|d| &mut d.appender))
            .chain(snapshots.iter_mut().map(|s| &mut s.appender));
        let waiting = appenders.filter(|a| a.acked() < a.queued());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_before_a_round_are_dropped_and_one_across_is_cut() {
        let extents = [(0, 10), (15, 10), (30, 5)];
        assert_eq!(since(&extents, 0), extents);
        assert_eq!(since(&extents, 12), [(15, 10), (30, 5)]);
        assert_eq!(since(&extents, 20), [(20, 5), (30, 5)]);
        assert_eq!(since(&extents, 25), [(30, 5)]);
        assert_eq!(since(&extents, 40), []);
    }
}
