//! What one client has queued, sent and seen acknowledged of its stream in one file. No I/O in here.
//!
//! ```text
//!      acked            sent                queued
//!   -----|---------------|--------------------|-> the stream's own offsets
//!         under way        waiting to be sent
//! ```

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::MAX_APPEND;

/// Small appends are gathered up to this size while others are under way.
const GROUP: usize = 64 * 1024;
/// Bytes under way; more waits here rather than in sockets.
const WINDOW: u64 = 16 * 1024 * 1024;

#[derive(Debug)]
pub struct Session {
    /// Whole appends (or groups of them), not acknowledged, at consecutive offsets from `first`.
    entries: VecDeque<Bytes>,
    first: u64,
    /// How many of `entries` are under way on the present connection.
    sent: usize,
    sent_to: u64,
    /// The last, still growing group.
    group: BytesMut,
    queued: u64,
    acked: u64,
}

impl Session {
    /// A stream whose first `length` bytes are stored already.
    pub fn new(length: u64) -> Self {
        Self {
            entries: VecDeque::new(),
            first: length,
            sent: 0,
            sent_to: length,
            group: BytesMut::new(),
            queued: length,
            acked: length,
        }
    }

    pub fn queued(&self) -> u64 {
        self.queued
    }

    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Something was sent and is not acknowledged.
    pub fn under_way(&self) -> bool {
        self.sent_to > self.acked
    }

    /// Queues one append.
    pub fn push(&mut self, bytes: Bytes) {
        self.queued += bytes.len() as u64;
        if bytes.len() >= GROUP {
            self.close_group();
            let mut bytes = bytes;
            while bytes.len() > MAX_APPEND {
                self.entries.push_back(bytes.split_to(MAX_APPEND));
            }
            self.entries.push_back(bytes);
        } else if !bytes.is_empty() {
            if self.group.len() + bytes.len() > GROUP {
                self.close_group();
            }
            self.group.extend_from_slice(&bytes);
        }
    }

    fn close_group(&mut self) {
        if !self.group.is_empty() {
            self.entries.push_back(self.group.split().freeze());
        }
    }

    /// The next append to send, with its offset. A group that still has room goes only when nothing is under way.
    pub fn next_to_send(&mut self) -> Option<(u64, Bytes)> {
        if self.sent == self.entries.len() && !self.under_way() {
            self.close_group();
        }
        let next = self.entries.get(self.sent)?;
        if self.under_way() && self.sent_to - self.acked + next.len() as u64 > WINDOW {
            return None;
        }
        let offset = self.sent_to;
        self.sent += 1;
        self.sent_to += next.len() as u64;
        Some((offset, next.clone()))
    }

    /// The stream is stored up to `length`. True when that is more than before.
    pub fn acknowledge(&mut self, length: u64) -> bool {
        // A length beyond what was ever queued is nothing that this process wrote.
        let length = length.min(self.queued);
        if length <= self.acked {
            return false;
        }
        self.acked = length;
        while let Some(entry) = self.entries.front() {
            let end = self.first + entry.len() as u64;
            if end > length {
                break;
            }
            self.first = end;
            self.entries.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
        self.sent_to = self.sent_to.max(self.first);
        true
    }

    /// The connection is lost: nothing is under way any more, and all that is not acknowledged will be sent again.
    pub fn disconnected(&mut self) {
        self.sent = 0;
        self.sent_to = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Op {
        Push(usize),
        Send,
        /// The store takes this share of what is in its inbox, and answers.
        Store(u8),
        Answer,
        Lose,
    }

    fn op() -> impl Strategy<Value = Op> {
        let size = prop_oneof![0usize..200, 60_000usize..70_000, Just(1 << 20)];
        prop_oneof![
            size.prop_map(Op::Push),
            Just(Op::Send),
            any::<u8>().prop_map(Op::Store),
            Just(Op::Answer),
            Just(Op::Lose)
        ]
    }

    proptest! {
        /// A store that takes an append as HyDFS does ends up with exactly what was pushed, whatever was lost and sent again.
        #[test]
        fn all_that_is_pushed_is_stored_once_and_in_order(ops in prop::collection::vec(op(), 1..80), start in 0u64..100) {
            let mut session = Session::new(start);
            let mut pushed = vec![0; start as usize];
            let mut stored = pushed.clone();
            let (mut inbox, mut answers) = (VecDeque::new(), VecDeque::new());
            let store = |stored: &mut Vec<u8>, (offset, bytes): (u64, Bytes)| {
                let known = stored.len().checked_sub(offset as usize).expect("no gap");
                stored.extend_from_slice(bytes.get(known..).unwrap_or(&[]));
            };
            let mut next = 0u8;
            for op in ops.into_iter().chain([Op::Lose]) {
                match op {
                    Op::Push(n) => {
                        next = next.wrapping_add(1);
                        pushed.extend(std::iter::repeat_n(next, n));
                        session.push(vec![next; n].into());
                    }
                    Op::Send => inbox.extend(session.next_to_send()),
                    Op::Store(share) => {
                        for _ in 0..inbox.len() * share as usize / 255 {
                            store(&mut stored, inbox.pop_front().unwrap());
                        }
                        answers.push_back(stored.len() as u64);
                    }
                    Op::Answer => {
                        if let Some(length) = answers.pop_front() {
                            session.acknowledge(length);
                        }
                    }
                    Op::Lose => {
                        inbox.clear();
                        answers.clear();
                        session.disconnected();
                    }
                }
                prop_assert!(session.acked() <= stored.len() as u64 && session.queued() == pushed.len() as u64);
            }
            while session.acked() < session.queued() {
                let sent = session.next_to_send();
                prop_assert!(sent.is_some() || session.under_way());
                while let Some(append) = session.next_to_send() {
                    inbox.push_back(append);
                }
                if let Some(append) = sent {
                    inbox.push_front(append);
                }
                inbox.drain(..).for_each(|append| store(&mut stored, append));
                session.acknowledge(stored.len() as u64);
            }
            prop_assert_eq!(stored, pushed);
        }
    }

    #[test]
    fn small_appends_are_gathered_only_while_one_is_under_way() {
        let mut s = Session::new(0);
        s.push(Bytes::from_static(b"a"));
        assert_eq!(s.next_to_send(), Some((0, Bytes::from_static(b"a"))));
        s.push(Bytes::from_static(b"bc"));
        s.push(Bytes::from_static(b"d"));
        assert_eq!(s.next_to_send(), None);
        s.acknowledge(1);
        assert_eq!(s.next_to_send(), Some((1, Bytes::from_static(b"bcd"))));
    }

    #[test]
    fn more_than_the_window_waits() {
        let mut s = Session::new(0);
        for _ in 0..20 {
            s.push(vec![0; 1 << 20].into());
        }
        let sent = std::iter::from_fn(|| s.next_to_send()).count();
        assert_eq!(sent as u64, WINDOW >> 20);
    }
}
