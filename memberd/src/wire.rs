//! What travels: datagrams between daemons, tables between daemons over TCP, requests and updates for programs.
//! All are MessagePack with named fields, so that a field can be added without a flag day.

use std::net::IpAddr;

use common::ids::NodeName;
use common::net::datagram::OVERHEAD;
use common::net::frame;
use serde::{Deserialize, Serialize};

use crate::state::{Fact, State};

/// The longest datagram on the wire, seal included: it fits an Ethernet frame whatever tunnels are on the way.
pub const MAX_DATAGRAM: usize = 1400;
/// What is left of it for a message.
pub const MAX_PAYLOAD: usize = MAX_DATAGRAM - OVERHEAD;
/// The longest message without any facts: two names of 64 bytes and the field names.
const BASE: usize = 208;

/// An upper bound of one fact's encoded length.
pub fn fact_len(name: &NodeName) -> usize {
    name.as_str().len() + 48
}
/// How many bytes of facts, by [`fact_len`], a datagram may carry.
pub const FACTS_BUDGET: usize = MAX_PAYLOAD - BASE;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a message of {len} bytes is over the limit of {most}")]
    TooLong { len: usize, most: usize },
    #[error(transparent)]
    Codec(#[from] common::net::Error),
}

/// One datagram's content. Who sent it is in the seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Whom it is for: a datagram replayed to another node is refused.
    pub to: NodeName,
    pub body: Body,
    /// The sender's own fact first, then what it knows of the receiver, then news.
    pub facts: Vec<Fact>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Are you there? Answered by an `Ack` of the same number.
    Ping { seq: u64 },
    /// Please ping `target` for me and pass its answer on.
    PingReq { seq: u64, target: NodeName },
    /// `about` has answered: the sender itself, or the one that it was asked to ping.
    Ack { seq: u64, about: NodeName },
    /// Nothing but facts.
    Tell,
}

impl Message {
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let bytes = frame::encode(self)?;
        if bytes.len() > MAX_PAYLOAD {
            return Err(Error::TooLong {
                len: bytes.len(),
                most: MAX_PAYLOAD,
            });
        }
        Ok(bytes)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_PAYLOAD {
            return Err(Error::TooLong {
                len: bytes.len(),
                most: MAX_PAYLOAD,
            });
        }
        Ok(frame::decode(bytes)?)
    }
}

/// All that a daemon knows. Sent both ways on a connection of role `Join`: the dialler's first, then the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableExchange {
    pub facts: Vec<Fact>,
}

/// A node as programs see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub name: NodeName,
    /// As in the cluster file.
    pub addr: IpAddr,
    /// Milliseconds since 1970 at the start of its memberd, and one more for each refutation since.
    pub incarnation: u64,
    pub state: State,
}

impl Member {
    /// `name@incarnation`.
    pub fn id(&self) -> String {
        format!("{}@{}", self.name, self.incarnation)
    }
}

/// From a program to memberd, on a connection of role `Subscribe`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// All listed members: answered by `Members`.
    List,
    /// This node alone: answered by `Members` with one entry.
    ListSelf,
    /// `Update`s from now on, until either side closes. Nothing more is read from the connection.
    Subscribe,
    /// Announce that this node leaves, and exit: answered by `Leaving`.
    Leave,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Members(Vec<Member>),
    Leaving,
    Update(Update),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Update {
    /// The whole table: first, then every few seconds as a sign of life, and when a slow reader has missed changes.
    Snapshot(Vec<Member>),
    /// One member is now so.
    Change(Member),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = NodeName> {
        "[a-z0-9]{1,64}".prop_map(|n| NodeName::new(n).unwrap())
    }
    fn state() -> impl Strategy<Value = State> {
        prop::sample::select(vec![State::Alive, State::Suspect, State::Failed, State::Left])
    }
    fn fact() -> impl Strategy<Value = Fact> {
        (name(), any::<u64>(), state()).prop_map(|(name, incarnation, state)| Fact {
            name,
            incarnation,
            state,
        })
    }
    fn body() -> impl Strategy<Value = Body> {
        prop_oneof![
            any::<u64>().prop_map(|seq| Body::Ping { seq }),
            (any::<u64>(), name()).prop_map(|(seq, target)| Body::PingReq { seq, target }),
            (any::<u64>(), name()).prop_map(|(seq, about)| Body::Ack { seq, about }),
            Just(Body::Tell),
        ]
    }

    proptest! {
        #[test]
        fn messages_round_trip_and_the_bounds_hold(to in name(), body in body(), facts in prop::collection::vec(fact(), 0..9)) {
            for f in &facts {
                prop_assert!(frame::encode(f).unwrap().len() <= fact_len(&f.name));
            }
            let budget: usize = facts.iter().map(|f| fact_len(&f.name)).sum();
            let message = Message { to, body, facts };
            let encoded = frame::encode(&message).unwrap();
            prop_assert!(encoded.len() <= BASE + budget, "{} over {}", encoded.len(), BASE + budget);
            if budget <= FACTS_BUDGET {
                prop_assert_eq!(Message::decode(&message.encode().unwrap()).unwrap(), message);
            }
        }

        #[test]
        fn garbage_and_truncated_messages_are_refused(garbage: Vec<u8>, to in name(), body in body(), at: prop::sample::Index) {
            let _ = Message::decode(&garbage); // must not panic; by chance it may decode
            let good = Message { to, body, facts: vec![] }.encode().unwrap();
            prop_assert!(Message::decode(&good[..at.index(good.len())]).is_err());
        }
    }

    #[test]
    fn long_messages_wrong_names_and_unknown_states_are_refused() {
        assert!(matches!(
            Message::decode(&[0; MAX_PAYLOAD + 1]),
            Err(Error::TooLong { .. })
        ));
        let fact = Fact {
            name: NodeName::new("x".repeat(64)).unwrap(),
            incarnation: 1,
            state: State::Alive,
        };
        let message = Message {
            to: fact.name.clone(),
            body: Body::Tell,
            facts: vec![fact; 20],
        };
        assert!(matches!(message.encode(), Err(Error::TooLong { .. })));
        let map = |name: &str, state: &str| {
            frame::encode(&serde_json::json!({"name": name, "incarnation": 1, "state": state})).unwrap()
        };
        assert!(frame::decode::<Fact>(&map("n1", "failed")).is_ok());
        assert!(frame::decode::<Fact>(&map("../n1", "failed")).is_err());
        assert!(frame::decode::<Fact>(&map("n1", "tired")).is_err());
    }

    #[test]
    fn requests_and_replies_round_trip() {
        let member = Member {
            name: NodeName::new("n1").unwrap(),
            addr: "127.0.0.11".parse().unwrap(),
            incarnation: 7,
            state: State::Left,
        };
        assert_eq!(member.id(), "n1@7");
        for request in [
            Request::List,
            Request::ListSelf,
            Request::Subscribe,
            Request::Leave,
        ] {
            assert_eq!(
                frame::decode::<Request>(&frame::encode(&request).unwrap()).unwrap(),
                request
            );
        }
        let updates = [
            Update::Snapshot(vec![member.clone()]),
            Update::Change(member.clone()),
        ];
        for reply in updates
            .map(Reply::Update)
            .into_iter()
            .chain([Reply::Members(vec![member]), Reply::Leaving])
        {
            assert_eq!(
                frame::decode::<Reply>(&frame::encode(&reply).unwrap()).unwrap(),
                reply
            );
        }
    }
}
