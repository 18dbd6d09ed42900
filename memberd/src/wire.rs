//! What travels: datagrams between daemons, tables between daemons over TCP, requests and updates for programs.
//! Over TCP it is MessagePack with named fields, so that a field can be added without a flag day; datagrams are many and
//! small, so they are arrays behind a version byte.

use std::net::IpAddr;

use common::ids::NodeName;
use common::net::datagram::OVERHEAD;
use serde::{Deserialize, Serialize};

use crate::console::Answered;
use crate::state::settings::{Configuration, Stamp};
use crate::state::{Fact, State};

/// The longest datagram on the wire, seal included: it fits an Ethernet frame whatever tunnels are on the way.
pub const MAX_DATAGRAM: usize = 1400;
/// What is left of it for a message.
pub const MAX_PAYLOAD: usize = MAX_DATAGRAM - OVERHEAD;
/// The first byte of a message.
const VERSION: u8 = 2;
/// The longest message without facts, heartbeats and configuration: two names of 64 bytes, stamp, numbers.
const BASE: usize = 184;
/// An upper bound of an encoded [`Configuration`].
pub const CONFIGURATION_LEN: usize = 192;

/// An upper bound of one fact's encoded length.
pub fn fact_len(name: &NodeName) -> usize {
    name.as_str().len() + 13
}
/// How many bytes of facts, by [`fact_len`], a datagram may carry that has nothing else of varying length.
pub const FACTS_BUDGET: usize = MAX_PAYLOAD - BASE;
/// How many bytes of heartbeats, by [`beat_len`]. Beside them fits a configuration, or else the sender's and the
/// receiver's facts and some news.
pub const BEATS_BUDGET: usize = FACTS_BUDGET - CONFIGURATION_LEN;

/// An upper bound of one heartbeat's encoded length; `above`: how far it is above the datagram's base.
pub fn beat_len(name: &NodeName, above: u64) -> usize {
    let number = match above {
        0..=0x7f => 1,
        0x80..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    };
    name.as_str().len() + 3 + number
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a message of {len} bytes is over the limit of {most}")]
    TooLong { len: usize, most: usize },
    #[error(
        "a message of version {got:?}; this memberd speaks version {VERSION}: run the same build on all nodes"
    )]
    Version { got: Option<u8> },
    #[error("cannot encode a message: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
    #[error("not a message: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
}

/// One datagram's content. Who sent it is in the seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Whom it is for: a datagram replayed to another node is refused.
    pub to: NodeName,
    pub body: Body,
    /// The sender's own fact first, then what it knows of the receiver (both only if the receiver has not just said the
    /// same), then news.
    pub facts: Vec<Fact>,
    /// Which configuration the sender has; `None`: its cluster file's.
    pub stamp: Option<Stamp>,
    pub configuration: Option<Configuration>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Are you there? Answered by an `Ack` of the same number.
    #[serde(rename = "p")]
    Ping { seq: u64 },
    /// Please ping `target` for me and pass its answer on.
    #[serde(rename = "r")]
    PingReq { seq: u64, target: NodeName },
    /// `about` has answered: the sender itself, or the one that it was asked to ping.
    #[serde(rename = "a")]
    Ack { seq: u64, about: NodeName },
    /// The one that the sender was asked to ping does not answer; but the sender itself is there.
    #[serde(rename = "n")]
    Nack { seq: u64 },
    /// Nothing but facts.
    #[serde(rename = "t")]
    Tell,
    /// Heartbeats: each node's newest number known to the sender, as how far it is above `base`.
    #[serde(rename = "b")]
    Beats { base: u64, beats: Vec<(NodeName, u64)> },
}

impl Body {
    /// A bound of what its part of varying length takes.
    pub fn extra_len(&self) -> usize {
        match self {
            Body::Beats { beats, .. } => beats.iter().map(|(name, above)| beat_len(name, *above)).sum(),
            _ => 0,
        }
    }
}

/// A message as it is encoded: without field names, states as numbers.
#[derive(Serialize, Deserialize)]
struct Packed(
    NodeName,
    Body,
    Vec<(NodeName, u64, u8)>,
    Option<Stamp>,
    Option<Configuration>,
);

const STATES: [State; 4] = [State::Alive, State::Suspect, State::Failed, State::Left];

impl Message {
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let facts = self
            .facts
            .iter()
            .map(|f| (f.name.clone(), f.incarnation, f.state as u8));
        let packed = Packed(
            self.to.clone(),
            self.body.clone(),
            facts.collect(),
            self.stamp,
            self.configuration.clone(),
        );
        let mut bytes = vec![VERSION];
        rmp_serde::encode::write(&mut bytes, &packed)?;
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
        let Some((&VERSION, packed)) = bytes.split_first() else {
            return Err(Error::Version {
                got: bytes.first().copied(),
            });
        };
        let Packed(to, body, facts, stamp, configuration) = rmp_serde::from_slice(packed)?;
        let facts = facts.into_iter().map(|(name, incarnation, state)| {
            let state = *STATES.get(usize::from(state)).ok_or_else(|| {
                rmp_serde::decode::Error::Uncategorized(format!("there is no state {state}"))
            })?;
            Ok(Fact {
                name,
                incarnation,
                state,
            })
        });
        Ok(Self {
            to,
            body,
            facts: facts.collect::<Result<_, Error>>()?,
            stamp,
            configuration,
        })
    }
}

/// All that a daemon knows. Sent both ways on a connection of role `Join`: the dialler's first, then the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableExchange {
    pub facts: Vec<Fact>,
    #[serde(default)]
    pub configuration: Option<Configuration>,
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

    /// As `GET /list_mem` has it.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name,
            "id": self.id(),
            "addr": self.addr,
            "incarnation": self.incarnation,
            "state": self.state,
        })
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
    /// The configuration in force: answered by `Configuration`.
    Configuration,
    /// Change settings, by key and text, for the whole group: answered by `Configuration` or `Refused`.
    Change(Vec<(String, String)>),
    /// What the node's console says to this path: answered by `Console` or `Refused`.
    Console(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Members(Vec<Member>),
    Leaving,
    Update(Update),
    Configuration(Configuration),
    Console(Answered),
    /// Why not.
    Refused(String),
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
    use common::cluster::{Membership, Protocol};
    use common::net::frame;
    use proptest::prelude::*;

    use super::*;
    use crate::state::settings::Settings;

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
            any::<u64>().prop_map(|seq| Body::Nack { seq }),
            Just(Body::Tell),
            (any::<u64>(), prop::collection::vec((name(), beat()), 0..20))
                .prop_map(|(base, beats)| Body::Beats { base, beats }),
        ]
    }
    fn beat() -> impl Strategy<Value = u64> {
        prop_oneof![0..300u64, 0..100_000u64, any::<u64>()]
    }
    fn stamp() -> impl Strategy<Value = Option<Stamp>> {
        prop::option::of((any::<u64>(), any::<u32>()).prop_map(|(version, digest)| Stamp { version, digest }))
    }
    fn configuration() -> impl Strategy<Value = Option<Configuration>> {
        let of = |(version, by, n, suspicion): (u64, NodeName, u64, bool)| Configuration {
            version,
            by,
            settings: Settings {
                protocol: Protocol::PingAck,
                suspicion,
                suspicion_ms: n,
                cleanup_ms: n,
                period_ms: n,
                ping_timeout_ms: n,
                indirect: n,
                gossip_period_ms: n,
                fanout: n,
                fail_ms: n,
                drop_permille: n,
            },
        };
        prop::option::of((any::<u64>(), name(), any::<u64>(), any::<bool>()).prop_map(of))
    }

    proptest! {
        #[test]
        fn messages_round_trip_and_the_bounds_hold(
            to in name(), body in body(), facts in prop::collection::vec(fact(), 0..9),
            stamp in stamp(), configuration in configuration(),
        ) {
            let mut budget: usize = facts.iter().map(|f| fact_len(&f.name)).sum::<usize>() + body.extra_len();
            if let Some(c) = &configuration {
                prop_assert!(rmp_serde::to_vec(c).unwrap().len() <= CONFIGURATION_LEN);
                budget += CONFIGURATION_LEN;
            }
            let message = Message { to, body, facts, stamp, configuration };
            match message.encode() {
                Ok(bytes) => {
                    prop_assert!(bytes.len() <= BASE + budget, "{} over {}", bytes.len(), BASE + budget);
                    prop_assert_eq!(Message::decode(&bytes).unwrap(), message);
                }
                Err(e) => prop_assert!(budget > FACTS_BUDGET, "{e}"),
            }
        }

        #[test]
        fn garbage_and_truncated_messages_are_refused(garbage: Vec<u8>, to in name(), body in body(), at: prop::sample::Index) {
            let _ = Message::decode(&garbage); // must not panic; by chance it may decode
            let good = Message { to, body, facts: vec![], stamp: None, configuration: None };
            if let Ok(good) = good.encode() {
                prop_assert!(Message::decode(&good[..at.index(good.len())]).is_err());
            }
        }
    }

    #[test]
    fn a_datagram_of_the_longest_names_still_fits() {
        let name = |i: usize| NodeName::new(format!("{i:064}")).unwrap();
        let message = Message {
            to: name(1),
            body: Body::PingReq {
                seq: u64::MAX,
                target: name(2),
            },
            facts: vec![],
            stamp: Some(Stamp {
                version: u64::MAX,
                digest: u32::MAX,
            }),
            configuration: None,
        };
        assert!(message.encode().unwrap().len() <= BASE);
        let settings: Settings = (&Membership::default()).into();
        assert!(settings.check().is_ok());
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
            stamp: None,
            configuration: None,
        };
        assert!(matches!(message.encode(), Err(Error::TooLong { .. })));
        assert!(matches!(Message::decode(&[]), Err(Error::Version { got: None })));
        assert!(matches!(
            Message::decode(&[1, 2]),
            Err(Error::Version { got: Some(1) })
        ));
        let bad_state = ("n1", ("t",), vec![("n2", 1, 4)], (), ());
        let mut bytes = vec![VERSION];
        rmp_serde::encode::write(&mut bytes, &bad_state).unwrap();
        assert!(Message::decode(&bytes).is_err());
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
            Request::Configuration,
            Request::Change(vec![("fanout".into(), "3".into())]),
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
        for reply in updates.map(Reply::Update).into_iter().chain([
            Reply::Members(vec![member]),
            Reply::Leaving,
            Reply::Refused("no".into()),
        ]) {
            assert_eq!(
                frame::decode::<Reply>(&frame::encode(&reply).unwrap()).unwrap(),
                reply
            );
        }
    }
}
