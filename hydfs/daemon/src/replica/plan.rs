//! What a request that changes something comes to, given the file as its coordinator has it. Pure.

use bytes::Bytes;
use common::ids::Epoch;
use xxhash_rust::xxh3::xxh3_64;

use super::Mutant;
use super::request::{Answer, Refused, Request};
use crate::wire::peer::RangeOp;
use hydfs::content::{ClientId, File, FileName, Kind, MAX_PAYLOAD};

/// How many entries back a repeated append is compared with what is there.
const COMPARED: usize = 1024;

/// What becomes of a request that changes something.
pub(super) enum Plan {
    /// These entries, then this answer.
    Do(Vec<RangeOp>, Answer),
    /// It was done before: the answer, when everything up to now is committed.
    Done(Answer),
    Refuse(Refused),
}

pub(super) fn plan(file: Option<&File>, request: Request) -> Plan {
    let fenced = !Mutant::Fence.is_on();
    match (request, file) {
        (Request::Create { file, nonce }, None) => {
            Plan::Do(vec![RangeOp::Create { file, nonce }], Answer::Created)
        }
        (Request::Create { nonce, .. }, Some(file)) if file.nonce == nonce => Plan::Done(Answer::Created),
        (Request::Create { .. }, Some(_)) => Plan::Refuse(Refused::Exists),
        (Request::Remove { file: name, nonce }, Some(file)) if file.nonce == nonce => {
            Plan::Do(vec![RangeOp::Remove { file: name, nonce }], Answer::Removed)
        }
        // That one is gone; this one came after.
        (Request::Remove { .. }, Some(_)) => Plan::Refuse(Refused::NoSuchFile),
        (
            Request::Fence {
                file,
                of: None,
                client,
                epoch,
                nonce,
                create: true,
            },
            None,
        ) => {
            let create = RangeOp::Create {
                file: file.clone(),
                nonce,
            };
            Plan::Do(
                vec![
                    create,
                    RangeOp::Fence {
                        file,
                        client,
                        epoch,
                        nonce,
                    },
                ],
                Answer::Fenced { length: 0 },
            )
        }
        (_, None) => Plan::Refuse(Refused::NoSuchFile),
        (Request::Fence { of: Some(of), .. }, Some(file)) if file.nonce != of => {
            Plan::Refuse(Refused::Replaced)
        }
        (
            Request::Fence {
                file: name,
                client,
                epoch,
                nonce,
                ..
            },
            Some(file),
        ) => {
            let Some(stream) = file.streams.get(&client) else {
                return Plan::Do(
                    vec![RangeOp::Fence {
                        file: name,
                        client,
                        epoch,
                        nonce,
                    }],
                    Answer::Fenced { length: 0 },
                );
            };
            let answer = Answer::Fenced {
                length: stream.length,
            };
            if (epoch, nonce) == (stream.epoch, stream.nonce) {
                return Plan::Done(answer);
            }
            if epoch <= stream.epoch && fenced {
                return Plan::Refuse(Refused::FencedOff { epoch: stream.epoch });
            }
            Plan::Do(
                vec![RangeOp::Fence {
                    file: name,
                    client,
                    epoch,
                    nonce,
                }],
                answer,
            )
        }
        (
            Request::Append {
                file: name,
                client,
                epoch,
                nonce,
                offset,
                payload,
            },
            Some(file),
        ) => {
            let Some(stream) = file.streams.get(&client) else {
                return Plan::Refuse(Refused::NotFenced);
            };
            if fenced && (epoch < stream.epoch || (epoch == stream.epoch && nonce != stream.nonce)) {
                return Plan::Refuse(Refused::FencedOff { epoch: stream.epoch });
            }
            if epoch > stream.epoch {
                return Plan::Refuse(Refused::NotFenced);
            }
            append(file, name, client, epoch, offset, payload)
        }
        (Request::Stat { .. } | Request::Find { .. }, _) => Plan::Refuse(Refused::NoSuchFile),
    }
}

/// An append by the process whose stream it is.
fn append(file: &File, name: FileName, client: ClientId, epoch: Epoch, offset: u64, payload: Bytes) -> Plan {
    let have = file.streams.get(&client).map_or(0, |s| s.length);
    if payload.len() > MAX_PAYLOAD {
        return Plan::Refuse(Refused::TooLong {
            len: payload.len() as u64,
            most: MAX_PAYLOAD as u64,
        });
    }
    if offset > have {
        return Plan::Refuse(Refused::Gap { have });
    }
    if offset < have && conflicts(file, client, offset, &payload) {
        return Plan::Refuse(Refused::Conflict);
    }
    let known = usize::try_from(have - offset).unwrap_or(usize::MAX);
    if known >= payload.len() {
        return Plan::Done(Answer::Appended { length: have });
    }
    // A longer retry: what is new of it.
    let payload = payload.slice(known..);
    let length = have + payload.len() as u64;
    let checksum = xxh3_64(&payload);
    let op = RangeOp::Append {
        file: name,
        client,
        epoch,
        offset: have,
        checksum,
        payload,
    };
    Plan::Do(vec![op], Answer::Appended { length })
}

/// Does it begin with an entry that is there, with other bytes? Only entries at the same offset are compared, and only the newest.
fn conflicts(file: &File, client: ClientId, offset: u64, payload: &[u8]) -> bool {
    let entries = file
        .segments
        .iter()
        .rev()
        .flat_map(|s| s.index.iter().rev())
        .take(COMPARED);
    let same = entries
        .filter(|e| e.kind == Kind::Append && e.client == client)
        .take_while(|e| e.offset >= offset);
    let at = same
        .filter(|e| e.offset == offset)
        .find_map(|e| Some((e, payload.get(..e.len as usize)?)));
    at.is_some_and(|(entry, begins)| !entry.fits(begins))
}
