//! Datagrams with a keyed MAC: altered, replayed and foreign ones are refused before they are decoded.
//!
//! ```text
//! "RS" version | len sender | sender | boot u64 | counter u64 | payload | 16 bytes of keyed BLAKE3 over all before
//! ```
//! `boot` grows with each start of the sender, `counter` with each datagram; the receiver keeps a window of the last
//! 1,024 counters of each sender's newest boot.

use std::collections::BTreeMap;

use crate::ids::NodeName;
use crate::secret::Secret;

const MAGIC: [u8; 3] = *b"RS\x01";
const MAC: usize = 16;
const WINDOW: u64 = 1024;
/// What the seal adds to a payload, at most.
pub const OVERHEAD: usize = 3 + 1 + 64 + 8 + 8 + MAC;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not a datagram of this protocol")]
    Format,
    #[error("its MAC is wrong: altered, or sent by a stranger")]
    Mac,
    #[error("it was seen before or is too old")]
    Replay,
}

/// Seals what one process sends.
pub struct Sealer {
    key: [u8; 32],
    sender: NodeName,
    boot: u64,
    counter: u64,
}

impl Sealer {
    /// `boot` must be higher than at the sender's last start: the wall clock in microseconds will do.
    pub fn new(secret: &Secret, sender: NodeName, boot: u64) -> Self {
        Self {
            key: secret.key("datagram"),
            sender,
            boot,
            counter: 0,
        }
    }

    pub fn seal(&mut self, payload: &[u8]) -> Vec<u8> {
        self.counter += 1;
        let name = self.sender.as_str().as_bytes();
        let mut out = Vec::with_capacity(payload.len() + OVERHEAD);
        out.extend_from_slice(&MAGIC);
        out.push(name.len() as u8);
        out.extend_from_slice(name);
        out.extend_from_slice(&self.boot.to_be_bytes());
        out.extend_from_slice(&self.counter.to_be_bytes());
        out.extend_from_slice(payload);
        let mac = blake3::keyed_hash(&self.key, &out);
        out.extend_from_slice(&mac.as_bytes()[..MAC]);
        out
    }
}

/// Opens what others send.
pub struct Opener {
    key: [u8; 32],
    seen: BTreeMap<NodeName, Seen>,
}

struct Seen {
    boot: u64,
    newest: u64,
    window: [u64; (WINDOW / 64) as usize],
}

impl Opener {
    pub fn new(secret: &Secret) -> Self {
        Self {
            key: secret.key("datagram"),
            seen: BTreeMap::new(),
        }
    }

    /// The sender and the payload, or why it is refused.
    pub fn open<'a>(&mut self, datagram: &'a [u8]) -> Result<(NodeName, &'a [u8]), Error> {
        let (head, mac) = datagram
            .split_at_checked(datagram.len().saturating_sub(MAC))
            .ok_or(Error::Format)?;
        let rest = head.strip_prefix(&MAGIC).ok_or(Error::Format)?;
        let expected = blake3::keyed_hash(&self.key, head);
        // blake3::Hash compares in constant time; so does this: all bytes are looked at.
        let differ = expected.as_bytes()[..MAC]
            .iter()
            .zip(mac)
            .fold(0, |acc, (a, b)| acc | (a ^ b));
        if differ != 0 || mac.len() != MAC {
            return Err(Error::Mac);
        }
        let (&len, rest) = rest.split_first().ok_or(Error::Format)?;
        let (name, rest) = rest.split_at_checked(len as usize).ok_or(Error::Format)?;
        let (numbers, payload) = rest.split_at_checked(16).ok_or(Error::Format)?;
        let name = std::str::from_utf8(name)
            .ok()
            .and_then(|n| NodeName::new(n).ok())
            .ok_or(Error::Format)?;
        let number = |at: usize| numbers[at..at + 8].iter().fold(0, |acc, &b| acc << 8 | b as u64);
        self.fresh(&name, number(0), number(8))?;
        Ok((name, payload))
    }

    fn fresh(&mut self, name: &NodeName, boot: u64, counter: u64) -> Result<(), Error> {
        let new = || Seen {
            boot,
            newest: 0,
            window: [0; (WINDOW / 64) as usize],
        };
        let seen = self.seen.entry(name.clone()).or_insert_with(new);
        if boot < seen.boot {
            return Err(Error::Replay);
        }
        if boot > seen.boot {
            *seen = new();
        }
        if seen.newest.saturating_sub(counter) >= WINDOW {
            return Err(Error::Replay);
        }
        if counter.saturating_sub(seen.newest) > WINDOW {
            seen.window = [0; (WINDOW / 64) as usize];
        } else {
            for n in (seen.newest..counter).map(|before| before + 1) {
                seen.window[(n % WINDOW / 64) as usize] &= !(1 << (n % 64));
            }
        }
        seen.newest = seen.newest.max(counter);
        let (word, bit) = ((counter % WINDOW / 64) as usize, 1u64 << (counter % 64));
        if seen.window[word] & bit != 0 {
            return Err(Error::Replay);
        }
        seen.window[word] |= bit;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn both() -> (Sealer, Opener) {
        let secret = Secret::from_text(b"a secret for datagrams");
        (
            Sealer::new(&secret, NodeName::new("n1").unwrap(), 7),
            Opener::new(&secret),
        )
    }

    proptest! {
        #[test]
        fn opens_what_it_sealed_once_and_nothing_altered(payload: Vec<u8>, at: prop::sample::Index, flip in 1u8..) {
            let (mut sealer, mut opener) = both();
            let sealed = sealer.seal(&payload);
            let mut altered = sealed.clone();
            altered[at.index(sealed.len())] ^= flip;
            prop_assert!(opener.open(&altered).is_err());
            prop_assert_eq!(opener.open(&sealed).unwrap().1, &payload[..]);
            prop_assert_eq!(opener.open(&sealed), Err(Error::Replay));
        }

        #[test]
        fn never_panics_on_garbage(garbage: Vec<u8>) {
            let (_, mut opener) = both();
            prop_assert!(opener.open(&garbage).is_err());
        }
    }

    #[test]
    fn reordered_ones_pass_old_ones_and_old_boots_do_not() {
        let (mut sealer, mut opener) = both();
        let all: Vec<_> = (0..3000).map(|i| sealer.seal(&[i as u8])).collect();
        assert!(opener.open(&all[5]).is_ok());
        assert!(opener.open(&all[2]).is_ok(), "reordered within the window");
        assert_eq!(opener.open(&all[2]), Err(Error::Replay));
        assert!(opener.open(&all[2999]).is_ok());
        assert!(opener.open(&all[2500]).is_ok());
        assert_eq!(opener.open(&all[100]), Err(Error::Replay));
        let secret = Secret::from_text(b"a secret for datagrams");
        let mut reborn = Sealer::new(&secret, NodeName::new("n1").unwrap(), 8);
        assert!(opener.open(&reborn.seal(b"x")).is_ok());
        assert_eq!(opener.open(&all[2998]), Err(Error::Replay), "an older boot");
    }

    #[test]
    fn the_last_numbers_are_numbers_too() {
        let (mut sealer, mut opener) = both();
        sealer.counter = u64::MAX - 2;
        let (older, last) = (sealer.seal(b"a"), sealer.seal(b"b"));
        assert!(opener.open(&last).is_ok());
        assert!(opener.open(&older).is_ok(), "reordered within the window");
        assert_eq!(opener.open(&last), Err(Error::Replay));
    }
}
