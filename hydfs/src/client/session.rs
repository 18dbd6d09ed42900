//! What one client has queued, sent and seen acknowledged of its stream in one file. No I/O in here.
//!
//! ```text
//!      acked            sent                queued
//!   -----|---------------|--------------------|-> the stream's own offsets
//!         under way        waiting to be sent
//! ```

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use common::clock::Time;
use common::hold::Hold;

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
    hold: Hold,
    /// When the first of what is under way was sent.
    sent_at: Time,
    held_until: Time,
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
            hold: Hold::NONE,
            sent_at: Time::ZERO,
            held_until: Time::ZERO,
        }
    }

    pub fn hold(&mut self, hold: Hold) {
        self.hold = hold;
        if hold == Hold::NONE {
            self.held_until = Time::ZERO;
        }
    }

    /// When to look at [`Session::next_to_send`] again although nothing happens.
    pub fn deadline(&self) -> Option<Time> {
        let held = !self.group.is_empty() && self.sent == self.entries.len() && !self.under_way();
        held.then_some(self.held_until)
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

    /// The next append to send, with its offset. A group that still has room goes only when nothing is under way, and not while it is held.
    pub fn next_to_send(&mut self, now: Time) -> Option<(u64, Bytes)> {
        if self.sent == self.entries.len() && !self.under_way() && now >= self.held_until {
            self.close_group();
        }
        let next = self.entries.get(self.sent)?;
        if self.under_way() && self.sent_to - self.acked + next.len() as u64 > WINDOW {
            return None;
        }
        if !self.under_way() {
            self.sent_at = now;
        }
        let offset = self.sent_to;
        self.sent += 1;
        self.sent_to += next.len() as u64;
        Some((offset, next.clone()))
    }

    /// The stream is stored up to `length`. True when that is more than before.
    pub fn acknowledge(&mut self, now: Time, length: u64) -> bool {
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
        if !self.under_way() {
            self.held_until = now + self.hold.after(now.since(self.sent_at));
        }
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
    use std::time::Duration;

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
            session.hold(Hold { times: 4, most: Duration::from_millis(25) });
            let mut now = Time::ZERO;
            let mut pushed = vec![0; start as usize];
            let mut stored = pushed.clone();
            let (mut inbox, mut answers) = (VecDeque::new(), VecDeque::new());
            let store = |stored: &mut Vec<u8>, (offset, bytes): (u64, Bytes)| {
                let known = stored.len().checked_sub(offset as usize).expect("no gap");
                stored.extend_from_slice(bytes.get(known..).unwrap_or(&[]));
            };
            let mut next = 0u8;
            for op in ops.into_iter().chain([Op::Lose]) {
                now = now + Duration::from_millis(1);
                match op {
                    Op::Push(n) => {
                        next = next.wrapping_add(1);
                        pushed.extend(std::iter::repeat_n(next, n));
                        session.push(vec![next; n].into());
                    }
                    Op::Send => inbox.extend(session.next_to_send(now)),
                    Op::Store(share) => {
                        for _ in 0..inbox.len() * share as usize / 255 {
                            store(&mut stored, inbox.pop_front().unwrap());
                        }
                        answers.push_back(stored.len() as u64);
                    }
                    Op::Answer => {
                        if let Some(length) = answers.pop_front() {
                            session.acknowledge(now, length);
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
                now = session.deadline().unwrap_or(now).max(now);
                let sent = session.next_to_send(now);
                prop_assert!(sent.is_some() || session.under_way());
                while let Some(append) = session.next_to_send(now) {
                    inbox.push_back(append);
                }
                if let Some(append) = sent {
                    inbox.push_front(append);
                }
                inbox.drain(..).for_each(|append| store(&mut stored, append));
                session.acknowledge(now, stored.len() as u64);
            }
            prop_assert_eq!(stored, pushed);
        }
    }

    #[test]
    fn small_appends_are_gathered_only_while_one_is_under_way() {
        let now = Time::ZERO;
        let mut s = Session::new(0);
        s.push(Bytes::from_static(b"a"));
        assert_eq!(s.next_to_send(now), Some((0, Bytes::from_static(b"a"))));
        s.push(Bytes::from_static(b"bc"));
        s.push(Bytes::from_static(b"d"));
        assert_eq!(s.next_to_send(now), None);
        s.acknowledge(now, 1);
        assert_eq!(s.next_to_send(now), Some((1, Bytes::from_static(b"bcd"))));
    }

    #[test]
    fn small_appends_are_held_for_a_few_times_what_the_last_one_took() {
        let mut s = Session::new(0);
        s.hold(Hold {
            times: 4,
            most: Duration::from_millis(25),
        });
        let at = Time::from_millis;
        for (sent, took, held) in [(0, 3, 12), (100, 20, 25)] {
            s.push(Bytes::from_static(b"a"));
            assert!(s.next_to_send(at(sent)).is_some());
            let acked = sent + took;
            s.acknowledge(at(acked), s.queued());
            s.push(Bytes::from_static(b"b"));
            assert_eq!(s.next_to_send(at(acked + held - 1)), None);
            assert_eq!(s.deadline(), Some(at(acked + held)));
            assert!(s.next_to_send(at(acked + held)).is_some());
            s.acknowledge(at(acked + held), s.queued());
        }
        // What is large, or to be hurried, is not held.
        s.push(Bytes::from_static(b"c"));
        s.push(vec![0; GROUP].into());
        s.hold(Hold::NONE);
        assert_eq!(std::iter::from_fn(|| s.next_to_send(at(125))).count(), 2);
    }

    #[test]
    fn more_than_the_window_waits() {
        let now = Time::ZERO;
        let mut s = Session::new(0);
        for _ in 0..20 {
            s.push(vec![0; 1 << 20].into());
        }
        let sent = std::iter::from_fn(|| s.next_to_send(now)).count();
        assert_eq!(sent as u64, WINDOW >> 20);
    }
}
