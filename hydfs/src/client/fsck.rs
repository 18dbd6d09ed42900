//! `fsck`: looks at every copy of every file and names what is not well.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use common::clock;

use super::Client;
use super::error::Error;
use super::inspect::{self, InspectJob, RangeStand, Unread};
use super::merge::describe;
use crate::ring::RangeIx;
use crate::view::NodeIx;
use crate::wire::client::CopyInfo;

/// A take-over is over by then.
const RANGE_WITHIN: Duration = Duration::from_secs(3);
/// What looks wrong while files change is looked at again after this long.
const AGAIN: Duration = Duration::from_millis(300);

/// How a file or range is not well, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Its range cannot be written, and maybe not read, now.
    Unavailable,
    /// Bytes on a disk are not what was written there. That copy is being repaired.
    Damaged,
    /// Fewer whole copies than there should be.
    UnderReplicated,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unavailable => "UNAVAILABLE",
            Self::Damaged => "DAMAGED",
            Self::UnderReplicated => "UNDER-REPLICATED",
        })
    }
}

/// Something that is not well.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// How bad it is.
    pub kind: Kind,
    /// A file; `None`: a whole range.
    pub file: Option<String>,
    /// What is wrong, and where.
    pub what: String,
}

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Files that were checked.
    pub files: usize,
    /// Copies of them that were looked at.
    pub copies: usize,
    /// Bytes on disks that were read back.
    pub bytes: u64,
    /// What is not well; empty if all is.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub elapsed: Duration,
}

type Copies = BTreeMap<String, BTreeMap<NodeIx, CopyInfo>>;

/// `quick`: compares what the nodes know of their copies, without reading the bytes back.
pub(super) async fn fsck(client: &Client, prefix: &str, quick: bool) -> Result<Report, Error> {
    let start = clock::now();
    let mut report = Report::default();
    for range in client.nodes.ring().ranges() {
        check_range(client, range, prefix, quick, &mut report).await?;
    }
    report.findings.sort();
    report.findings.dedup();
    report.elapsed = clock::now().since(start);
    Ok(report)
}

async fn check_range(
    client: &Client,
    range: RangeIx,
    prefix: &str,
    quick: bool,
    report: &mut Report,
) -> Result<(), Error> {
    let nodes = &client.nodes;
    let patience = client.patience.min(RANGE_WITHIN);
    let stand = match inspect::range_state(nodes, range, patience).await? {
        Ok(stand) => stand,
        Err(why) => return unavailable(client, range, prefix, &why, report).await,
    };
    let all = gather(client, range, prefix, &stand.members, report).await;
    report.files += all.len();
    report.copies += all.values().map(BTreeMap::len).sum::<usize>();
    let wanted = nodes.cluster().replication.min(nodes.cluster().nodes.len());
    let mut jobs: Vec<InspectJob> = Vec::new();
    let mut suspect: BTreeSet<String> = BTreeSet::new();
    for (file, copies) in &all {
        if stand.members.len() < wanted {
            let names: Vec<String> = stand.members.iter().map(|n| nodes.name(*n).to_string()).collect();
            let what = format!("{} of {wanted} copies: {}", names.len(), names.join(", "));
            report.findings.push(finding(Kind::UnderReplicated, file, what));
        }
        let compared = inspect::compare(&in_order(&stand, copies));
        if !compared.flaws.is_empty() || compared.open.is_some() {
            suspect.insert(file.clone());
        }
        if !quick {
            let read = copies
                .iter()
                .flat_map(|(node, copy)| inspect::jobs(*node, copy, true));
            jobs.extend(read);
            let bytes = copies
                .values()
                .flat_map(|c| &c.segments)
                .filter(|s| !s.segment.missing);
            report.bytes += bytes.map(|s| s.segment.bytes).sum::<u64>();
        }
    }
    inspect::read_back(nodes, jobs, |job, unread| match unread {
        Unread::Damaged { offset, why } => {
            let what = format!("{why}, at byte {offset}; it is repaired from another copy");
            report.findings.push(finding(Kind::Damaged, &job.file, what));
        }
        // Looked at again below.
        Unread::Gone | Unread::Unreachable(_) => {
            suspect.insert(job.file.clone());
        }
    })
    .await;
    if !suspect.is_empty() {
        tokio::time::sleep(AGAIN).await;
    }
    for file in suspect {
        look_again(client, range, &file, report).await?;
    }
    Ok(())
}

fn in_order<'a>(
    stand: &RangeStand,
    copies: &'a BTreeMap<NodeIx, CopyInfo>,
) -> Vec<(NodeIx, Option<&'a CopyInfo>)> {
    stand.members.iter().map(|n| (*n, copies.get(n))).collect()
}

fn finding(kind: Kind, file: &str, what: String) -> Finding {
    Finding {
        kind,
        file: Some(file.to_owned()),
        what,
    }
}

/// What these nodes have of the range.
async fn gather(
    client: &Client,
    range: RangeIx,
    prefix: &str,
    members: &[NodeIx],
    report: &mut Report,
) -> Copies {
    let mut all = Copies::new();
    for node in members {
        match inspect::copies(&client.nodes, *node, range, prefix).await {
            Ok(copies) => {
                for copy in copies {
                    all.entry(copy.file.clone()).or_default().insert(*node, copy);
                }
            }
            Err(error) => report.findings.push(Finding {
                kind: Kind::UnderReplicated,
                file: None,
                what: format!("files of range {}: {error}", client.nodes.name(NodeIx(range.0))),
            }),
        }
    }
    all
}

/// Names the range, and the files of it that anybody who can be reached has copies of.
async fn unavailable(
    client: &Client,
    range: RangeIx,
    prefix: &str,
    why: &str,
    report: &mut Report,
) -> Result<(), Error> {
    let nodes = &client.nodes;
    let name = nodes.name(NodeIx(range.0));
    report.findings.push(Finding {
        kind: Kind::Unavailable,
        file: None,
        what: format!("files of range {name}: {why}"),
    });
    let mut holders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in nodes.all() {
        // Who cannot be reached is why the range is unavailable.
        for copy in inspect::copies(nodes, node, range, prefix)
            .await
            .unwrap_or_default()
        {
            holders
                .entry(copy.file)
                .or_default()
                .push(nodes.name(node).to_string());
        }
    }
    report.files += holders.len();
    for (file, on) in holders {
        report.copies += on.len();
        let what = format!("range {name}; copies on {}", on.join(", "));
        report.findings.push(finding(Kind::Unavailable, &file, what));
    }
    Ok(())
}

/// A file that was just created, removed, appended to or moved looks odd for a moment: only what lasts is told.
async fn look_again(client: &Client, range: RangeIx, file: &str, report: &mut Report) -> Result<(), Error> {
    let nodes = &client.nodes;
    let patience = client.patience.min(RANGE_WITHIN);
    let stand = match inspect::range_state(nodes, range, patience).await? {
        Ok(stand) => stand,
        Err(why) => {
            report.findings.push(finding(Kind::Unavailable, file, why));
            return Ok(());
        }
    };
    let mut copies = BTreeMap::new();
    for (node, copy) in inspect::copies_of(nodes, &stand.members, file).await {
        match copy {
            Ok(Some(copy)) => drop(copies.insert(node, copy)),
            Ok(None) => {}
            Err(error) => report
                .findings
                .push(finding(Kind::UnderReplicated, file, error.to_string())),
        }
    }
    if !copies.contains_key(&stand.coordinator) {
        // Removed meanwhile.
        return Ok(());
    }
    let compared = inspect::compare(&in_order(&stand, &copies));
    for (node, flaw) in compared.flaws {
        let kind = match flaw {
            inspect::Flaw::Differs(_) => Kind::Damaged,
            _ => Kind::UnderReplicated,
        };
        let what = describe(nodes.name(node).as_str(), &flaw);
        report.findings.push(finding(kind, file, what));
    }
    let nonce = copies.get(&stand.coordinator).map_or(0, |c| c.nonce);
    if let Some(open) = compared.open
        && let Some(differing) = inspect::same_beginning(nodes, &stand.members, (file, nonce), open).await
    {
        for node in differing {
            let what = describe(nodes.name(node).as_str(), &inspect::Flaw::Differs(open.0));
            report.findings.push(finding(Kind::Damaged, file, what));
        }
    }
    Ok(())
}
