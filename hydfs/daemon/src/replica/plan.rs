//! What a request that changes something comes to, given the file as its coordinator has it. Pure.

use bytes::Bytes;
use common::ids::Epoch;
use xxhash_rust::xxh3::xxh3_64;

use super::Mutant;
use super::request::{Answer, Refused, Request, Writer};
use crate::wire::peer::RangeOp;
use hydfs::client::names::is_users;
use hydfs::content::{ClientId, File, FileName, Kind, MAX_PAYLOAD, SegmentId, SegmentLimits, Stream};

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

/// What a plan goes by besides the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// The first segment that may be opened in this view.
    pub view: SegmentId,
    pub limits: SegmentLimits,
    /// What all members have of the file.
    pub committed: u64,
}

/// Whether there is a file of a user's afterwards that was not there before. A repeat of what was done makes none.
pub(super) fn makes_users_file(file: Option<&File>, request: &Request) -> bool {
    match request {
        Request::Create { file: name, .. }
        | Request::Fence {
            file: name,
            create: true,
            ..
        } => file.is_none() && is_users(name.as_str()),
        _ => false,
    }
}

pub(super) fn plan(file: Option<&File>, request: Request, standing: Standing) -> Plan {
    let part = |file: &File| file.next_segment(standing.view, 0, standing.limits).part();
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
                        part: 0,
                        client,
                        epoch,
                        nonce,
                    },
                ],
                Answer::Fenced { length: 0, base: 0 },
            )
        }
        (_, None) => Plan::Refuse(Refused::NoSuchFile),
        (Request::Fence { of: Some(of), .. } | Request::Trim { of: Some(of), .. }, Some(file))
            if file.nonce != of =>
        {
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
            let stream = file.streams.get(&client).copied();
            let answer = Answer::Fenced {
                length: stream.map_or(0, |s| s.length),
                base: file.base,
            };
            match stream {
                Some(stream) if (epoch, nonce) == (stream.epoch, stream.nonce) => return Plan::Done(answer),
                Some(stream) if epoch <= stream.epoch && !Mutant::Fence.is_on() => {
                    return Plan::Refuse(Refused::FencedOff { epoch: stream.epoch });
                }
                Some(_) | None => {}
            }
            let fence = RangeOp::Fence {
                file: name,
                part: part(file),
                client,
                epoch,
                nonce,
            };
            Plan::Do(vec![fence], answer)
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
            let writer = Writer { client, epoch, nonce };
            match check_open(file, writer) {
                Ok(_) => append(file, name, part(file), client, epoch, offset, payload),
                Err(refused) => Plan::Refuse(refused),
            }
        }
        (
            Request::Trim {
                file: name, base, by, ..
            },
            Some(file),
        ) => match by
            .filter(|_| !Mutant::UnfencedTrim.is_on())
            .map(|by| check_open(file, by))
        {
            Some(Err(refused)) => Plan::Refuse(refused),
            Some(Ok(_)) | None => trim(file, name, base, standing),
        },
        (Request::Stat { .. } | Request::Find { .. }, _) => Plan::Refuse(Refused::NoSuchFile),
    }
}

/// Is this the process that has the stream open?
fn check_open(file: &File, Writer { client, epoch, nonce }: Writer) -> Result<Stream, Refused> {
    let stream = *file.streams.get(&client).ok_or(Refused::NotFenced)?;
    let other = epoch < stream.epoch || (epoch == stream.epoch && nonce != stream.nonce);
    if other && !Mutant::Fence.is_on() {
        return Err(Refused::FencedOff { epoch: stream.epoch });
    }
    match epoch > stream.epoch {
        true => Err(Refused::NotFenced),
        false => Ok(stream),
    }
}

/// What is not committed may yet come to be something else, so nobody can mean to trim it. And what a copy drops, all others have: a take-over
/// seals at no less than what is committed.
fn trim(file: &File, name: FileName, base: u64, standing: Standing) -> Plan {
    if base <= file.base {
        return Plan::Done(Answer::Trimmed { base: file.base });
    }
    let length = match Mutant::TrimUncommitted.is_on() {
        true => file.length(),
        false => standing.committed,
    };
    if base > length {
        return Plan::Refuse(Refused::BeyondEnd { length });
    }
    let op = RangeOp::Trim {
        file: name,
        nonce: file.nonce,
        base,
        part: file.next_segment(standing.view, base, standing.limits).part(),
    };
    Plan::Do(vec![op], Answer::Trimmed { base })
}

/// An append by the process whose stream it is.
fn append(
    file: &File,
    name: FileName,
    part: u32,
    client: ClientId,
    epoch: Epoch,
    offset: u64,
    payload: Bytes,
) -> Plan {
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
        part,
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
