//! One input channel: what an upstream task sent and this task has not consumed yet.

use std::collections::VecDeque;

use protocol::batch::{Batch, Builder};
use protocol::control::Route;

/// What a frame on a channel holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    Tuples(Batch),
    /// What follows goes by this version of the receiver's stage's routing. Takes one number of the channel.
    Mark(Route),
    /// The upstream task's end mark; it takes one number of the channel.
    End,
}

/// A received piece of a channel: units `start..end`.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub start: u64,
    /// Wall clock, microseconds: when the source read the oldest line behind these tuples.
    pub born_us: u64,
    pub content: Content,
}

impl Item {
    pub fn end(&self) -> u64 {
        self.start
            + match &self.content {
                Content::Tuples(batch) => batch.len() as u64,
                Content::Mark(_) | Content::End => 1,
            }
    }

    fn bytes(&self) -> usize {
        match &self.content {
            Content::Tuples(batch) => batch.bytes(),
            Content::Mark(_) | Content::End => 0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Something of it was new.
    New,
    /// All of it was here before: acknowledge again.
    Repeat,
    /// Units between what is here and what came are missing: close the connection, and resume from the handshake.
    Gap,
}

#[derive(Debug, Default)]
pub struct Inbox {
    items: VecDeque<Item>,
    /// Units received without a gap; at or above what is consumed.
    have: u64,
    bytes: usize,
}

impl Inbox {
    pub fn new(consumed: u64) -> Self {
        Self {
            have: consumed,
            ..Self::default()
        }
    }

    pub fn have(&self) -> u64 {
        self.have
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Units received and not consumed.
    pub fn units(&self) -> u64 {
        self.items.front().map_or(0, |first| self.have - first.start)
    }

    /// The upstream task's end mark is next.
    pub fn is_at_end(&self) -> bool {
        matches!(self.items.front(), Some(item) if item.content == Content::End)
    }

    /// Takes a piece in: repeats are dropped, overlaps trimmed.
    pub fn receive(&mut self, mut item: Item) -> Received {
        if item.start > self.have {
            return Received::Gap;
        }
        let end = item.end();
        if end <= self.have {
            return Received::Repeat;
        }
        if let Content::Tuples(batch) = &mut item.content {
            batch.skip((self.have - item.start) as usize);
            item.start = self.have;
        }
        self.accept(item, end);
        Received::New
    }

    /// Takes a piece in as it is: for the mutant that does not look for repeats.
    pub fn receive_unchecked(&mut self, mut item: Item) {
        item.start = self.have;
        let end = item.end();
        self.accept(item, end);
    }

    fn accept(&mut self, item: Item, end: u64) {
        self.have = end;
        self.bytes += item.bytes();
        self.items.push_back(item);
    }

    pub fn is_ready(&self) -> bool {
        !self.items.is_empty()
    }

    /// The oldest piece.
    pub fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.bytes -= item.bytes();
        Some(item)
    }

    /// Exactly the units `start..end`, as one piece, once all of them are here. The pieces may have other ends now than
    /// when they were first consumed.
    pub fn pop_exact(&mut self, start: u64, end: u64) -> Option<Item> {
        if self.have < end {
            return None;
        }
        let first = self.items.front()?;
        if first.start == start && first.end() == end {
            return self.pop();
        }
        let mut joined = Builder::new();
        let mut born_us = u64::MAX;
        while let Some(item) = self.items.front_mut() {
            let Content::Tuples(batch) = &mut item.content else {
                break;
            };
            if item.start >= end {
                break;
            }
            born_us = born_us.min(item.born_us);
            let take = ((end - item.start) as usize).min(batch.len());
            let mut key = Vec::new();
            for i in 0..take {
                key.clear();
                batch.key_into(i, &mut key);
                joined.push(&key, batch.value(i));
            }
            self.bytes -= batch.bytes();
            if take == batch.len() {
                self.items.pop_front();
            } else {
                batch.skip(take);
                self.bytes += batch.bytes();
                item.start += take as u64;
                break;
            }
        }
        Some(Item {
            start,
            born_us,
            content: Content::Tuples(joined.take()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(range: std::ops::Range<u64>) -> Item {
        let mut b = Builder::new();
        range.clone().for_each(|n| b.push(b"k", n.to_string().as_bytes()));
        Item {
            start: range.start,
            born_us: range.start,
            content: Content::Tuples(b.take()),
        }
    }

    fn numbers(item: &Item) -> Vec<u64> {
        let Content::Tuples(batch) = &item.content else {
            return vec![];
        };
        let mut out = vec![];
        batch.for_each(|_, v| out.push(std::str::from_utf8(v).unwrap().parse().unwrap()));
        out
    }

    proptest! {
        /// Whatever is sent again in whatever pieces, each unit comes out once, in order, in the asked-for pieces.
        #[test]
        fn units_come_out_once(sends in prop::collection::vec((0u64..40, 1u64..12), 0..30), cuts in prop::collection::vec(1u64..9, 1..20)) {
            let mut inbox = Inbox::new(0);
            for (start, len) in sends {
                let before = inbox.have();
                match inbox.receive(item(start..start + len)) {
                    Received::Gap => prop_assert!(start > before),
                    Received::Repeat => prop_assert!(start + len <= before),
                    Received::New => prop_assert_eq!(inbox.have(), start + len),
                }
            }
            let mut at = 0;
            for len in cuts {
                let got = inbox.pop_exact(at, at + len);
                if at + len <= inbox.have() {
                    prop_assert_eq!(numbers(&got.unwrap()), (at..at + len).collect::<Vec<_>>());
                    at += len;
                } else {
                    prop_assert!(got.is_none());
                }
            }
            while let Some(rest) = inbox.pop() {
                prop_assert_eq!(numbers(&rest)[0], at);
                at = rest.end();
            }
            prop_assert_eq!((at, inbox.bytes()), (inbox.have(), 0));
        }
    }
}
