//! Reading from one replica and no other.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use common::backoff::Backoff;
use common::clock;
use common::ids::{Creation, NodeName};

use super::Client;
use super::conn::Answer;
use super::error::{Error, check_name};
use super::nodes::GRACE;
use crate::view::NodeIx;
use crate::wire::client::{FileStat, MAX_READ, Refusal, Reply, Request};

const AHEAD: usize = 4;

/// Gives `sink` the bytes of `node`'s own copy: all that was acknowledged before the call, if that can be known (when nobody
/// coordinates the file: what that node knows to be committed).
pub(super) async fn read(
    client: &Client,
    name: &NodeName,
    file: &str,
    mut sink: impl AsyncFnMut(Bytes, u64) -> Result<(), Error>,
) -> Result<Range<u64>, Error> {
    check_name(file)?;
    let node = client.nodes.node(name)?;
    let (there, creation) = held(client, node, file).await?;
    let Range { start, end: len } = there;
    if start > len {
        // It lags behind what was trimmed.
        return Err(missing(name, file, len, start));
    }
    let conn = client.nodes.conn(node).await?;
    let mut under_way = VecDeque::new();
    let (mut asked, mut at) = (start, start);
    while at < len {
        while under_way.len() < AHEAD && asked < len {
            let part = (len - asked).min(MAX_READ as u64);
            under_way.push_back(conn.call(Request::Read {
                file: file.into(),
                of: Some(creation),
                offset: asked,
                len: part as u32,
                any: true,
            }));
            asked += part;
        }
        let Some(answer) = under_way.pop_front() else {
            break;
        };
        let failed = |why: &str| Error::Net {
            node: name.clone(),
            why: why.into(),
        };
        // There is nobody else to ask: a node that is slow is waited for.
        match tokio::time::timeout(client.patience, answer).await {
            Ok(Ok(Answer::Data { offset, bytes })) if offset == at && !bytes.is_empty() => {
                at += bytes.len() as u64;
                let short = !(bytes.len() as u64).is_multiple_of(MAX_READ as u64) && at < len;
                sink(bytes, len - start).await?;
                if short {
                    return Err(missing(name, file, at, len));
                }
            }
            Ok(Ok(Answer::Reply(Reply::Refused(Refusal::Damaged { offset, why })))) => {
                return Err(Error::Damaged {
                    file: file.into(),
                    offset,
                    why: format!("{why} (this copy is being repaired; the others may be whole: hydfs get)"),
                });
            }
            Ok(Ok(Answer::Reply(Reply::Refused(Refusal::Trimmed { base })))) => {
                let file = file.into();
                return Err(Error::Trimmed { file, base });
            }
            Ok(Ok(_)) => return Err(missing(name, file, at, len)),
            Ok(Err(_)) => return Err(failed("the connection was lost")),
            Err(_) => return Err(failed("no answer in time")),
        }
    }
    Ok(there)
}

fn missing(node: &NodeName, file: &str, at: u64, len: u64) -> Error {
    Error::NotAReplica {
        file: format!("bytes {at}..{len} of {file}"),
        node: node.clone(),
        but: ": they are being repaired; try again, or see hydfs fsck".into(),
    }
}

async fn here(client: &Client, node: NodeIx, file: &str) -> Result<Option<FileStat>, Error> {
    let request = Request::Stat {
        file: file.into(),
        any: true,
    };
    match client.nodes.call(node, request, client.patience).await? {
        Answer::Reply(Reply::Stat(stat)) => Ok(Some(stat)),
        Answer::Reply(Reply::Refused(Refusal::NotHere | Refusal::NoSuchFile)) => Ok(None),
        Answer::Reply(Reply::Refused(refusal)) => Err(client.nodes.refusal(file, refusal, Duration::ZERO)),
        Answer::Reply(other) => Err(client.nodes.unexpected(file, &other)),
        _ => Ok(None),
    }
}

/// Which bytes of the file it holds.
async fn held(client: &Client, node: NodeIx, file: &str) -> Result<(Range<u64>, Creation), Error> {
    let quick = client.with_patience(client.patience.min(GRACE));
    let known = match quick.stat(file).await {
        Ok(stat) => Some(stat),
        Err(Error::Unavailable { .. }) => None,
        Err(other) => return Err(other),
    };
    let (start, mut backoff) = (clock::now(), Backoff::quick());
    loop {
        let Some(held) = here(client, node, file).await? else {
            let replicas = known.map(|k| {
                k.replicas
                    .iter()
                    .map(|n| n.to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            });
            return Err(Error::NotAReplica {
                file: file.into(),
                node: client.nodes.name(node),
                but: replicas.map_or(String::new(), |r| format!("; its replicas are {r}")),
            });
        };
        match &known {
            // What is on all replicas is known to each of them a moment later.
            Some(stat) if held.len < stat.len && clock::now().since(start) < GRACE => {
                tokio::time::sleep(backoff.delay().min(Duration::from_millis(50))).await;
            }
            Some(stat) => {
                let there = held.base.max(stat.base)..held.len.min(stat.len);
                return Ok((there, Creation(held.nonce)));
            }
            None => return Ok((held.base..held.len, Creation(held.nonce))),
        }
    }
}
