//! What the group has agreed on: the failure detector in force and its tunables. One value for the whole group, with a
//! version; it travels on the protocol's own messages (`group/agreement.rs`).

use std::fmt;
use std::time::Duration;

use common::cluster::{Membership, Protocol};
use common::ids::NodeName;
use serde::{Deserialize, Serialize};

/// More than this would cut every node off, and with it the change that ends it.
pub const MAX_DROP_PERMILLE: u64 = 900;
/// One day. Longer times are mistakes.
const MAX_MS: u64 = 86_400_000;
/// No owner of a change gets there; a higher version is damage.
pub const MAX_VERSION: u64 = (1 << 53) - 1;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there is no setting `{key}`; there are {}", KEYS.join(", "))]
    UnknownKey { key: String },
    #[error("{key}={value} is not possible: {need}")]
    Value {
        key: String,
        value: String,
        need: String,
    },
    #[error("nothing to set; say what, as in suspicion_time=1s; there are {}", KEYS.join(", "))]
    Nothing,
}

/// Times in milliseconds. The order has no meaning but to break ties.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Settings {
    pub protocol: Protocol,
    /// Without it an accused node is failed at once.
    pub suspicion: bool,
    /// How long a suspect may refute.
    pub suspicion_ms: u64,
    /// How long the failed and the left stay listed.
    pub cleanup_ms: u64,
    /// Ping/ack: one probe per period.
    pub period_ms: u64,
    /// Ping/ack: how long a direct probe may take before others are asked to probe.
    pub ping_timeout_ms: u64,
    /// Ping/ack: how many others are asked.
    pub indirect: u64,
    /// Gossip: heartbeats are sent once per period ...
    pub gossip_period_ms: u64,
    /// ... to so many others.
    pub fanout: u64,
    /// Gossip: who has been silent for so long is accused. In groups whose heartbeats do not fit into one datagram it is
    /// longer (`protocol/gossip.rs`).
    pub fail_ms: u64,
    /// For tests: so many of a thousand arriving datagrams are thrown away.
    pub drop_permille: u64,
}

/// All keys that [`Settings::set`] takes, as `/get` and `/set` name them.
pub const KEYS: [&str; 12] = [
    "protocol",
    "suspicion",
    "suspicion_time",
    "suspicion_ms",
    "cleanup_ms",
    "period_ms",
    "ping_timeout_ms",
    "indirect",
    "gossip_period_ms",
    "fanout",
    "fail_ms",
    "drop_rate",
];

impl From<&Membership> for Settings {
    /// The cluster file's. What is out of range is moved to its nearest bound, so that no timer can spin.
    fn from(m: &Membership) -> Self {
        let ms = |ms: u64| ms.clamp(1, MAX_MS);
        Self {
            protocol: m.protocol,
            suspicion: m.suspicion,
            suspicion_ms: ms(m.suspicion_ms),
            cleanup_ms: ms(m.cleanup_ms),
            period_ms: ms(m.period_ms),
            ping_timeout_ms: ms(m.ping_timeout_ms),
            indirect: (m.indirect as u64).min(64),
            gossip_period_ms: ms(m.gossip_period_ms),
            fanout: (m.fanout as u64).clamp(1, 64),
            fail_ms: ms(m.fail_ms).max(2 * ms(m.gossip_period_ms)),
            drop_permille: permille(m.drop_rate).unwrap_or(0),
        }
    }
}

fn permille(rate: f64) -> Option<u64> {
    let permille = (rate * 1000.0).round();
    (0.0..=MAX_DROP_PERMILLE as f64)
        .contains(&permille)
        .then_some(permille as u64)
}

impl Settings {
    pub fn period(&self) -> Duration {
        Duration::from_millis(self.period_ms)
    }
    pub fn ping_timeout(&self) -> Duration {
        Duration::from_millis(self.ping_timeout_ms)
    }
    pub fn suspicion_time(&self) -> Duration {
        Duration::from_millis(self.suspicion_ms)
    }
    pub fn cleanup(&self) -> Duration {
        Duration::from_millis(self.cleanup_ms)
    }
    pub fn gossip_period(&self) -> Duration {
        Duration::from_millis(self.gossip_period_ms)
    }
    pub fn fail(&self) -> Duration {
        Duration::from_millis(self.fail_ms)
    }

    /// One setting by its name and a text, as they are typed.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let wrong = |need: &str| Error::Value {
            key: key.into(),
            value: value.chars().take(80).collect(),
            need: need.into(),
        };
        let number = |least: u64, most: u64| {
            let n = value.trim().parse().ok().filter(|n| (least..=most).contains(n));
            n.ok_or_else(|| wrong(&format!("a whole number from {least} to {most}")))
        };
        match key {
            "protocol" => {
                self.protocol = match value {
                    "gossip" => Protocol::Gossip,
                    "pingack" => Protocol::PingAck,
                    _ => return Err(wrong("gossip or pingack")),
                }
            }
            "suspicion" => {
                self.suspicion = match value {
                    "enabled" | "true" => true,
                    "disabled" | "false" => false,
                    _ => return Err(wrong("enabled or disabled")),
                }
            }
            "suspicion_time" => {
                self.suspicion_ms = duration_ms(value)
                    .ok_or_else(|| wrong("a time from 1ms to 24h, such as 1s, 750ms or 2m"))?;
            }
            "suspicion_ms" => self.suspicion_ms = number(1, MAX_MS)?,
            "cleanup_ms" => self.cleanup_ms = number(1, MAX_MS)?,
            "period_ms" => self.period_ms = number(10, MAX_MS)?,
            "ping_timeout_ms" => self.ping_timeout_ms = number(1, MAX_MS)?,
            "indirect" => self.indirect = number(0, 64)?,
            "gossip_period_ms" => self.gossip_period_ms = number(10, MAX_MS)?,
            "fanout" => self.fanout = number(1, 64)?,
            "fail_ms" => self.fail_ms = number(1, MAX_MS)?,
            "drop_rate" => {
                let rate = value.trim().parse().ok().and_then(permille);
                self.drop_permille = rate.ok_or_else(|| {
                    wrong(
                        "a part of all datagrams from 0 to 0.9 (more would cut off the change that ends it)",
                    )
                })?;
            }
            _ => {
                return Err(Error::UnknownKey {
                    key: key.chars().take(80).collect(),
                });
            }
        }
        Ok(())
    }

    /// All of `changes`, or none if one of them is refused.
    pub fn with(&self, changes: &[(String, String)]) -> Result<Self, Error> {
        if changes.is_empty() {
            return Err(Error::Nothing);
        }
        let mut new = self.clone();
        for (key, value) in changes {
            new.set(key, value)?;
        }
        new.check()?;
        Ok(new)
    }

    /// What must hold of the values together, and of ones that came from elsewhere.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |key: &str, value: u64, need: String| {
            Err(Error::Value {
                key: key.into(),
                value: value.to_string(),
                need,
            })
        };
        for (key, value, least, most) in [
            ("suspicion_ms", self.suspicion_ms, 1, MAX_MS),
            ("cleanup_ms", self.cleanup_ms, 1, MAX_MS),
            ("period_ms", self.period_ms, 1, MAX_MS),
            ("ping_timeout_ms", self.ping_timeout_ms, 1, MAX_MS),
            ("indirect", self.indirect, 0, 64),
            ("gossip_period_ms", self.gossip_period_ms, 1, MAX_MS),
            ("fanout", self.fanout, 1, 64),
            ("fail_ms", self.fail_ms, 1, MAX_MS),
            (
                "drop_rate in thousandths",
                self.drop_permille,
                0,
                MAX_DROP_PERMILLE,
            ),
        ] {
            if !(least..=most).contains(&value) {
                return wrong(key, value, format!("from {least} to {most}"));
            }
        }
        if self.fail_ms < 2 * self.gossip_period_ms {
            let need = format!(
                "at least two gossip periods, {} ms, or everybody would be accused",
                2 * self.gossip_period_ms
            );
            return wrong("fail_ms", self.fail_ms, need);
        }
        Ok(())
    }

    pub fn suspicion_word(&self) -> &'static str {
        if self.suspicion { "enabled" } else { "disabled" }
    }
}

fn duration_ms(text: &str) -> Option<u64> {
    let text = text.trim();
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(at);
    let unit_ms = match unit.trim() {
        "ms" => 1.0,
        "s" => 1000.0,
        "m" | "min" => 60_000.0,
        "h" => 3_600_000.0,
        _ => return None,
    };
    let ms = number.parse::<f64>().ok()? * unit_ms;
    (1.0..=MAX_MS as f64).contains(&ms).then_some(ms.round() as u64)
}

/// The settings with their place in the group's history. A greater one wins everywhere: by version, then by the name of
/// the node where it was set, then (a node that lost its memory in between) by the settings themselves. So two changes
/// at once end in one winner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Configuration {
    /// 0: the node's own cluster file. It is kept to oneself.
    pub version: u64,
    /// Where it was set.
    pub by: NodeName,
    pub settings: Settings,
}

/// Which configuration a sender has, on every datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    pub version: u64,
    /// Tells configurations of one version apart; no order.
    pub digest: u32,
}

impl Configuration {
    pub fn stamp(&self) -> Stamp {
        // FNV-1a over the tie-breakers: the same on every machine and in every build.
        let mut digest = 0x811c_9dc5_u32;
        let mut mix = |bytes: &[u8]| {
            for b in bytes {
                digest = (digest ^ u32::from(*b)).wrapping_mul(0x0100_0193);
            }
        };
        mix(self.by.as_str().as_bytes());
        mix(format!("{:?}", self.settings).as_bytes());
        Stamp {
            version: self.version,
            digest,
        }
    }

    /// As `GET /get` shows it.
    pub fn to_json(&self) -> serde_json::Value {
        let s = &self.settings;
        serde_json::json!({
            "version": self.version,
            "by": self.by,
            "protocol": s.protocol.to_string(),
            "suspicion": s.suspicion_word(),
            "suspicion_time": match s.suspicion_ms {
                ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
                ms => format!("{ms}ms"),
            },
            "suspicion_ms": s.suspicion_ms,
            "cleanup_ms": s.cleanup_ms,
            "period_ms": s.period_ms,
            "ping_timeout_ms": s.ping_timeout_ms,
            "indirect": s.indirect,
            "gossip_period_ms": s.gossip_period_ms,
            "fanout": s.fanout,
            "fail_ms": s.fail_ms,
            "drop_rate": s.drop_permille as f64 / 1000.0,
        })
    }
}

impl fmt::Display for Configuration {
    /// As `display_protocol` says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.settings;
        write!(f, "{}, suspicion {}", s.protocol, s.suspicion_word())?;
        if s.suspicion {
            write!(f, " ({} ms)", s.suspicion_ms)?;
        }
        match self.version {
            0 => write!(f, ", as in the cluster file"),
            v => write!(f, ", version {v}, set at {}", self.by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings() -> Settings {
        (&Membership::default()).into()
    }

    fn pairs(text: &str) -> Vec<(String, String)> {
        text.split_whitespace()
            .map(|p| p.split_once('=').unwrap())
            .map(|(k, v)| (k.into(), v.into()))
            .collect()
    }

    #[test]
    fn changes_are_taken_whole_or_not_at_all() {
        let base = settings();
        let new = base
            .with(&pairs(
                "protocol=gossip suspicion=disabled suspicion_time=1.5s fanout=4 drop_rate=0.05",
            ))
            .unwrap();
        assert_eq!(
            (
                new.protocol,
                new.suspicion,
                new.suspicion_ms,
                new.fanout,
                new.drop_permille
            ),
            (Protocol::Gossip, false, 1500, 4, 50)
        );
        assert_eq!(new.period_ms, base.period_ms);
        for (bad, word) in [
            ("protocol=smoke", "gossip or pingack"),
            ("suspicion=maybe", "enabled"),
            ("suspicion_time=soon", "750ms"),
            ("suspicion_time=0s", "750ms"),
            ("suspicion_time=-1s", "750ms"),
            ("period_ms=0", "from 10"),
            ("fanout=0", "from 1"),
            ("drop_rate=1", "0.9"),
            ("drop_rate=NaN", "0.9"),
            ("colour=red", "there are protocol"),
            ("gossip_period_ms=5000", "two gossip periods"),
            ("fail_ms=100", "two gossip periods"),
        ] {
            let error = base.with(&pairs(bad)).unwrap_err().to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
        assert_eq!(base.with(&[]), Err(Error::Nothing));
    }

    #[test]
    fn every_key_can_be_set_and_is_shown() {
        let configuration = Configuration {
            version: 3,
            by: NodeName::new("n1").unwrap(),
            settings: settings(),
        };
        let json = configuration.to_json();
        for key in KEYS {
            let value = match &json[key] {
                serde_json::Value::String(s) => s.clone(),
                other => other.to_string(),
            };
            assert_eq!(
                settings().with(&[(key.into(), value.clone())]),
                Ok(settings()),
                "{key}={value}"
            );
        }
    }

    proptest! {
        #[test]
        fn typed_garbage_never_panics_and_what_is_taken_passes_the_check(key in "[a-z_]{0,20}", at in 0..KEYS.len(), value: String) {
            for key in [key.as_str(), KEYS[at]] {
                if let Ok(new) = settings().with(&[(key.into(), value.clone())]) {
                    prop_assert!(new.check().is_ok());
                }
            }
        }
    }

    #[test]
    fn ties_are_broken_the_same_way_everywhere() {
        let of = |version, by: &str, fanout| Configuration {
            version,
            by: NodeName::new(by).unwrap(),
            settings: Settings { fanout, ..settings() },
        };
        assert!(of(2, "a", 1) > of(1, "z", 9));
        assert!(of(2, "b", 1) > of(2, "a", 9));
        assert!(of(2, "a", 2) > of(2, "a", 1));
        assert_ne!(of(2, "a", 2).stamp(), of(2, "a", 1).stamp());
        assert_ne!(of(2, "a", 2).stamp(), of(2, "b", 2).stamp());
        assert_eq!(of(2, "a", 2).stamp(), of(2, "a", 2).stamp());
    }
}
