//! Fetches segments that this node should have and has not, from others that do, one piece after the other and not too fast.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use common::clock::{self, Time};
use common::cluster::Cluster;
use common::net::Identity;
use common::spawn;
use tokio::sync::oneshot;

use super::core::{Core, CoreEvent, CoreEvents};
use crate::replica::Input;
use crate::store::{Put, Store};
use hydfs::client::{Answer, Nodes};
use hydfs::content::{EntryMeta, FileName, Segment, SegmentId};
use hydfs::ring::RangeIx;
use hydfs::view::NodeIx;
use hydfs::wire::client::Request;

/// Segments under repair at a time: small ones must not wait for each other's round trips.
const AT_ONCE: usize = 8;
const ANSWER: Duration = Duration::from_secs(10);

/// A segment to be fetched.
#[derive(Debug, Clone)]
pub struct RepairJob {
    pub range: RangeIx,
    pub file: FileName,
    pub nonce: u64,
    pub segment: Segment,
    pub from: Vec<NodeIx>,
}

type Key = (RangeIx, FileName, SegmentId);

/// What a running repair tells the core.
pub enum RepairNews {
    /// A piece came; what becomes of it is told back. `None`: the node it came from need not be asked on.
    Piece {
        job: Arc<RepairJob>,
        at: u64,
        entries: Vec<EntryMeta>,
        payload: Bytes,
        put: oneshot::Sender<Option<Put>>,
    },
    Ended {
        job: Arc<RepairJob>,
        done: bool,
    },
}

/// Holds all repairs of a node together to a rate, however many there are: one large segment may have all of it.
struct Pace {
    /// Bytes per second; 0: as fast as it goes.
    rate: u64,
    /// When what was taken so far has had its time.
    free: Mutex<Time>,
}

impl Pace {
    /// So many bytes were taken: when to take more.
    fn after(&self, now: Time, bytes: u64) -> Time {
        let Some(us) = (bytes * 1_000_000).checked_div(self.rate) else {
            return now;
        };
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = (*free).max(now) + Duration::from_micros(us);
        *free
    }
}

pub struct Repairs {
    nodes: Arc<Nodes>,
    events: CoreEvents,
    pace: Arc<Pace>,
    queue: VecDeque<Arc<RepairJob>>,
    known: BTreeSet<Key>,
    running: usize,
    /// Since when, and what was done since, for the log.
    since: Option<Time>,
    segments: u64,
    bytes: u64,
    failed: u64,
    /// Segments and bytes since the node's start.
    pub(super) all: (u64, u64),
}

impl Repairs {
    pub fn new(cluster: Arc<Cluster>, me: Identity, events: CoreEvents) -> Self {
        Self {
            pace: Arc::new(Pace {
                rate: cluster.hydfs.repair_bytes_per_s,
                free: Mutex::new(Time::ZERO),
            }),
            nodes: Arc::new(Nodes::new(cluster, me)),
            events,
            queue: VecDeque::new(),
            known: BTreeSet::new(),
            running: 0,
            since: None,
            segments: 0,
            bytes: 0,
            failed: 0,
            all: (0, 0),
        }
    }

    pub fn start(&mut self, job: RepairJob) {
        let key = (job.range, job.file.clone(), job.segment.id);
        if !self.known.insert(key) {
            return;
        }
        if self.since.is_none() {
            self.since = Some(clock::now());
            (self.segments, self.bytes, self.failed) = (0, 0, 0);
            tracing::info!(file = %job.file, "REPAIR_START");
        }
        self.queue.push_back(Arc::new(job));
        self.run_next();
    }

    fn run_next(&mut self) {
        while self.running < AT_ONCE {
            let Some(job) = self.queue.pop_front() else { return };
            self.running += 1;
            let (nodes, events, pace) = (self.nodes.clone(), self.events.clone(), self.pace.clone());
            spawn::task("hydfs-repair", async move {
                let closed = events.clone();
                tokio::select! {
                    done = fetch(&nodes, &events, &job, &pace) => {
                        events.send(CoreEvent::Repair(RepairNews::Ended { job: job.clone(), done }));
                    }
                    () = closed.closed() => {}
                }
                Ok::<(), std::convert::Infallible>(())
            });
        }
    }

    fn ended(&mut self, job: &RepairJob, done: bool) {
        self.running -= 1;
        self.known.remove(&(job.range, job.file.clone(), job.segment.id));
        if done {
            self.segments += 1;
            self.bytes += job.segment.bytes;
            self.all = (self.all.0 + 1, self.all.1 + job.segment.bytes);
        } else {
            self.failed += 1;
        }
        self.run_next();
        if self.running == 0
            && let Some(since) = self.since.take()
        {
            let ms = clock::now().since(since).as_millis() as u64;
            tracing::info!(
                segments = self.segments,
                bytes = self.bytes,
                failed = self.failed,
                ms,
                "REPAIR_DONE"
            );
        }
    }
}

/// True when the segment is here (or wanted no more).
async fn fetch(nodes: &Nodes, events: &CoreEvents, job: &Arc<RepairJob>, pace: &Pace) -> bool {
    for node in &job.from {
        if fetch_from(nodes, events, job, *node, pace).await {
            return true;
        }
    }
    false
}

async fn fetch_from(
    nodes: &Nodes,
    events: &CoreEvents,
    job: &Arc<RepairJob>,
    node: NodeIx,
    pace: &Pace,
) -> bool {
    let mut at = 0;
    loop {
        let (file, segment) = (job.file.as_str().to_owned(), job.segment.head());
        let request = Request::Fetch {
            file,
            nonce: job.nonce,
            segment,
            at,
        };
        let Ok(Answer::Entries { entries, payload }) = nodes.call(node, request, ANSWER).await else {
            return false;
        };
        let (count, len) = (entries.len() as u64, payload.len() as u64);
        let (put, what) = oneshot::channel();
        events.send(CoreEvent::Repair(RepairNews::Piece {
            job: job.clone(),
            at,
            entries,
            payload,
            put,
        }));
        match what.await {
            Ok(Some(Put::Done)) => return true,
            Ok(Some(Put::More)) if count > 0 => at += count,
            _ => return false,
        }
        clock::sleep_until(pace.after(clock::now(), len)).await;
    }
}

impl Core {
    pub(super) fn repair_news(&mut self, news: RepairNews) {
        match news {
            RepairNews::Piece {
                job,
                at,
                entries,
                payload,
                put,
            } => {
                let stored = self.replica.store_mut().put_segment(
                    job.range,
                    &job.file,
                    job.segment.id,
                    at,
                    &entries,
                    &payload,
                );
                let stored = match stored {
                    Ok(Put::Refused) if !self.wanted(&job) => Some(Put::Done),
                    Ok(stored) => Some(stored),
                    Err(error) => {
                        tracing::warn!(file = %job.file, segment = %job.segment.id, error = %error, "REPAIR_FAILED");
                        None
                    }
                };
                // The repair was given up.
                let _ = put.send(stored);
            }
            RepairNews::Ended { job, done } => {
                self.repairs.ended(&job, done);
                let (range, file, segment) = (job.range, job.file.clone(), job.segment.clone());
                self.input(if done {
                    Input::Repaired { range, file, segment }
                } else {
                    Input::RepairFailed { range, file, segment }
                });
            }
        }
    }

    fn wanted(&self, job: &RepairJob) -> bool {
        let file = self
            .replica
            .store()
            .file(job.range, &job.file)
            .filter(|f| f.nonce == job.nonce);
        file.and_then(|f| f.segment(job.segment.id))
            .is_some_and(|s| s.missing && s.same(&job.segment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rate: u64) -> Pace {
        Pace {
            rate,
            free: Mutex::new(Time::ZERO),
        }
    }

    #[test]
    fn one_segment_has_the_whole_rate_and_several_share_it() {
        let (pace, now) = (pace(1000), Time::from_millis(5000));
        let mut at = now;
        for _ in 0..10 {
            at = pace.after(at, 100);
        }
        assert_eq!(at, now + Duration::from_secs(1), "1000 bytes by one");
        let later: Vec<Time> = (0..4).map(|_| pace.after(at, 250)).collect();
        assert_eq!(
            later[3],
            at + Duration::from_secs(1),
            "1000 bytes by four at once"
        );
        assert!(later.is_sorted());
    }

    #[test]
    fn time_that_nobody_used_is_not_made_up_for() {
        let (pace, now) = (pace(1000), Time::from_millis(60_000));
        assert_eq!(pace.after(now, 500), now + Duration::from_millis(500));
    }

    #[test]
    fn without_a_rate_nobody_waits() {
        let now = Time::from_millis(7);
        assert_eq!(pace(0).after(now, u64::MAX >> 21), now);
    }
}
