//! `merge`: brings all replicas of a file to the same bytes and proves it.
//!
//! One coordinator orders a file's appends, so there is nothing to reorder: what is acknowledged is on all replicas in one order.
//! What is left is to wait for copies that are being repaired, to compare the segments' digests, and to read back what was not read
//! back before: a flipped bit on a disk makes that copy be repaired. So the cost follows what is new since the last merge.

use std::time::Duration;

use common::backoff::Backoff;
use common::clock;
use common::ids::NodeName;

use super::Client;
use super::error::{Error, check_name};
use super::inspect::{self, Compared, Flaw, Unread};
use super::stream;
use crate::view::NodeIx;
use crate::wire::client::CopyInfo;

/// What a merge came to: all replicas hold the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The file's name.
    pub file: String,
    /// Bytes that were committed when it began.
    pub len: u64,
    /// The coordinator first. Fewer than the cluster file's replication when fewer nodes live.
    pub replicas: Vec<NodeName>,
    /// Copies that were not whole or not right, and are now.
    pub repaired: usize,
    /// Entries that were read back from disks, on all replicas together.
    pub read_back: u64,
    /// How long it took.
    pub elapsed: Duration,
}

pub(super) async fn merge(client: &Client, file: &str) -> Result<Merged, Error> {
    check_name(file)?;
    let (start, mut backoff) = (clock::now(), Backoff::quick());
    let nodes = &client.nodes;
    // All that was acknowledged before this call is to be the same on all.
    let len = client.stat(file).await?.len;
    let mut healed: std::collections::BTreeSet<NodeIx> = Default::default();
    let mut read_back = 0;
    loop {
        let stat = stream::size(nodes, file, client.patience).await?;
        let why = match copies(client, file, stat.nonce, &stat.replicas).await? {
            Err(flaws) => {
                healed.extend(flaws.iter().filter_map(|(node, _)| *node));
                flaws
                    .into_iter()
                    .map(|(_, why)| why)
                    .collect::<Vec<_>>()
                    .join("; ")
            }
            Ok(copies) => {
                let jobs: Vec<_> = copies
                    .iter()
                    .flat_map(|(n, c)| inspect::jobs(*n, c, false))
                    .collect();
                read_back += jobs.iter().map(|j| j.entries - j.at).sum::<u64>();
                let mut found: Vec<(NodeIx, String)> = Vec::new();
                inspect::read_back(nodes, jobs, |job, unread| {
                    let why = match unread {
                        Unread::Damaged { offset, why } => format!("{why} at byte {offset}"),
                        Unread::Gone => format!("{} has just lost bytes", nodes.name(job.node)),
                        Unread::Unreachable(why) => why,
                    };
                    found.push((job.node, why));
                })
                .await;
                if found.is_empty() {
                    return Ok(Merged {
                        file: file.into(),
                        len,
                        replicas: copies.iter().map(|(n, _)| nodes.name(*n)).collect(),
                        repaired: healed.len(),
                        read_back,
                        elapsed: clock::now().since(start),
                    });
                }
                healed.extend(found.iter().map(|(n, _)| *n));
                found
                    .into_iter()
                    .map(|(_, why)| why)
                    .collect::<Vec<_>>()
                    .join("; ")
            }
        };
        let tried_for = clock::now().since(start);
        if tried_for >= client.patience {
            return Err(Error::Unequal {
                file: file.into(),
                why,
                tried_for,
            });
        }
        tokio::time::sleep(backoff.delay().min(Duration::from_millis(100))).await;
    }
}

type Copies = Vec<(NodeIx, CopyInfo)>;
type Flaws = Vec<(Option<NodeIx>, String)>;

/// All replicas' copies if they are the same as far as metadata tells, else what differs.
async fn copies(
    client: &Client,
    file: &str,
    nonce: u64,
    replicas: &[NodeIx],
) -> Result<Result<Copies, Flaws>, Error> {
    let nodes = &client.nodes;
    let mut known: Vec<(NodeIx, Option<CopyInfo>)> = Vec::new();
    for (node, copy) in inspect::copies_of(nodes, replicas, file).await {
        match copy {
            Ok(copy) => known.push((node, copy)),
            Err(error @ Error::Secret { .. }) => return Err(error),
            Err(error) => return Ok(Err(vec![(None, error.to_string())])),
        }
    }
    let views: Vec<_> = known.iter().map(|(n, c)| (*n, c.as_ref())).collect();
    let Compared { flaws, open } = inspect::compare(&views);
    if !flaws.is_empty() {
        let told = flaws
            .into_iter()
            .map(|(node, flaw)| (Some(node), describe(nodes.name(node).as_str(), &flaw)));
        return Ok(Err(told.collect()));
    }
    if let Some(open) = open {
        match inspect::same_beginning(nodes, replicas, (file, nonce), open).await {
            Some(differing) if differing.is_empty() => {}
            Some(differing) => {
                let told = differing
                    .into_iter()
                    .map(|n| (Some(n), describe(nodes.name(n).as_str(), &Flaw::Differs(open.0))));
                return Ok(Err(told.collect()));
            }
            None => return Ok(Err(vec![(None, "the replicas are changing".into())])),
        }
    }
    let whole: Option<Copies> = known.into_iter().map(|(n, c)| Some((n, c?))).collect();
    Ok(whole.ok_or_else(|| vec![(None, "no replica has it".into())]))
}

pub(super) fn describe(node: &str, flaw: &Flaw) -> String {
    match flaw {
        Flaw::Absent => format!("{node} has no copy"),
        Flaw::Misses(0) => format!("{node} misses its newest bytes"),
        Flaw::Misses(bytes) => format!("{node} misses {bytes} bytes"),
        Flaw::Differs(segment) => format!("{node} holds other bytes in segment {segment}"),
    }
}
