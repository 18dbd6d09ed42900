//! What two tasks say to each other on a channel (role [`common::net::Role::Data`]). The sender dials.
//!
//! ```text
//! sender                            receiver
//!   Open      ------------------>           refused when a newer epoch of the sender was seen
//!             <------------------  Opened   what the receiver has
//!   data ...  ------------------>
//!             <------------------  Ack ...  what the sender may forget
//! ```

use bytes::Bytes;
use common::ids::{Epoch, JobName, TaskId};
use common::net::{self, frame};
use protocol::batch::{Batch, Wire};
use protocol::control::Route;
use serde::{Deserialize, Serialize};

use crate::task::inbox::{Content, Item};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    pub job: JobName,
    pub from: TaskId,
    pub epoch: Epoch,
    pub to: TaskId,
    /// The oldest unit that the sender can still send.
    pub oldest: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opened {
    From(Standing),
    Refused(String),
}

/// Where the receiver of a channel stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Send from this unit on.
    pub have: u64,
    /// Its log says that units up to here were consumed. It waits for them, and for nothing else before: they must come,
    /// whatever the sender's window.
    pub needs: u64,
}

impl Standing {
    pub fn at(have: u64) -> Self {
        Self { have, needs: have }
    }
}

/// All units below are covered by a durable checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack(pub u64);

/// start, born_us, end mark, tuples, the mark of a routing version. An array: it is the hot frame.
#[derive(Serialize, Deserialize)]
struct Data<'a>(
    u64,
    u64,
    bool,
    #[serde(borrow)] Wire<'a>,
    #[serde(default)] Option<Route>,
);

pub fn encode_data(start: u64, born_us: u64, end: bool, batch: &Batch) -> Bytes {
    encode(start, born_us, end, batch, None)
}

/// The mark of a new version of the receiver's stage's routing.
pub fn encode_mark(start: u64, route: &Route) -> Bytes {
    encode(start, u64::MAX, false, &Batch::empty(), Some(route.clone()))
}

fn encode(start: u64, born_us: u64, end: bool, batch: &Batch, mark: Option<Route>) -> Bytes {
    let mut out = Vec::with_capacity(batch.bytes() + 128);
    let mut serializer = rmp_serde::Serializer::new(&mut out);
    // Writing to a Vec cannot fail, and a batch's columns are shorter than 4 GiB.
    Data(start, born_us, end, batch.wire(), mark)
        .serialize(&mut serializer)
        .expect("a batch is representable");
    out.into()
}

/// The piece of a channel in `frame`, sharing its memory; checked.
pub fn decode_data(frame: &Bytes) -> Result<Item, Error> {
    let Data(start, born_us, end, wire, mark) = frame::decode(frame)?;
    let content = match mark {
        _ if end => Content::End,
        Some(route) => Content::Mark(route),
        None => Content::Tuples(Batch::from_wire(&wire, frame)?),
    };
    Ok(Item {
        start,
        born_us,
        content,
    })
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Frame(#[from] net::Error),
    #[error(transparent)]
    Batch(#[from] protocol::batch::Malformed),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::batch::Builder;

    proptest! {
        #[test]
        fn data_round_trips(start in 0..u64::MAX / 2, born_us: u64, tuples: Vec<(Vec<u8>, Vec<u8>)>) {
            let mut b = Builder::new();
            tuples.iter().for_each(|(k, v)| b.push(k, v));
            let batch = b.take();
            let item = decode_data(&encode_data(start, born_us, false, &batch)).unwrap();
            prop_assert_eq!(item, Item { start, born_us, content: Content::Tuples(batch) });
        }

        #[test]
        fn garbage_is_refused(garbage: Vec<u8>) {
            prop_assert!(decode_data(&garbage.into()).is_err());
        }
    }

    #[test]
    fn marks_round_trip() {
        let route = Route {
            version: 3,
            tasks: vec![TaskId::new(2, 0), TaskId::new(2, 5)],
        };
        let item = decode_data(&encode_mark(7, &route)).unwrap();
        assert_eq!(
            (item.start, item.end(), item.content),
            (7, 8, Content::Mark(route))
        );
        let item = decode_data(&encode_data(7, 0, true, &Batch::empty())).unwrap();
        assert_eq!((item.start, item.end(), item.content), (7, 8, Content::End));
    }
}
