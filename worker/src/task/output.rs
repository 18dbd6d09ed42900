//! One output: a channel to a task of the next stage, or the stream into the destination file. Holds what was emitted
//! until it is acknowledged.

use std::collections::VecDeque;

use bytes::Bytes;
use protocol::batch::{Batch, Builder, decimal};
use protocol::control::{Format, Route};

use super::format::write_tuple;
use super::mutants::Mutant;
use crate::wire::{self, Standing};

/// A closed piece of an output, units `start..end`.
#[derive(Debug, Clone)]
pub struct Chunk {
    pub start: u64,
    pub end: u64,
    /// The newest order record that it depends on: it may leave when that record is durable.
    pub pos: u64,
    /// A frame for a channel; the bytes to append for the destination.
    pub payload: Bytes,
    pub born_us: u64,
    pub tuples: u64,
}

#[derive(Debug)]
enum Open {
    Channel(Builder),
    Destination(Vec<u8>, u64),
}

#[derive(Debug)]
pub struct Output {
    open: Open,
    open_born_us: u64,
    /// Units emitted.
    emitted: u64,
    /// Units in closed chunks; the rest of `emitted` is in `open`.
    closed: u64,
    chunks: VecDeque<Chunk>,
    /// How many of `chunks`, from the front, need not be sent (again) on the present connection.
    sent: usize,
    /// What the receiver said that it has: not sent again, but kept, since it may die too.
    have: u64,
    /// What the receiver needs to live through its log again.
    needs: u64,
    /// What the receiver said may be forgotten. May lie ahead of `closed` while a restarted task works through its log.
    confirmed: u64,
    kept_bytes: usize,
    resent: u64,
    /// The end mark is the last chunk.
    ended: bool,
    /// Somebody takes what leaves: a file always does.
    connected: bool,
}

impl Output {
    pub fn channel(emitted: u64) -> Self {
        Self::new(Open::Channel(Builder::new()), emitted)
    }

    pub fn destination(emitted: u64) -> Self {
        Self::new(Open::Destination(Vec::new(), 0), emitted)
    }

    /// The first unit to be emitted is `emitted`: all before is acknowledged.
    pub fn begin_at(&mut self, emitted: u64) {
        *self = match self.is_destination() {
            true => Self::destination(emitted),
            false => Self::channel(emitted),
        };
    }

    /// Takes a chunk back in that an earlier process closed; those of one output come in order. What is acknowledged
    /// already is dropped. False: units before it are missing.
    pub fn restore(&mut self, chunk: Chunk) -> bool {
        if chunk.start > self.closed {
            return false;
        }
        if chunk.end > self.closed {
            self.closed = chunk.end;
            self.emitted = chunk.end;
            self.kept_bytes += chunk.payload.len();
            self.chunks.push_back(chunk);
        }
        true
    }

    /// Closed chunks that begin at unit `from` or later.
    pub fn closed_since(&self, from: u64) -> impl Iterator<Item = &Chunk> {
        let first = self.chunks.partition_point(|c| c.start < from);
        self.chunks.range(first..)
    }

    fn new(open: Open, emitted: u64) -> Self {
        Self {
            connected: matches!(open, Open::Destination(..)),
            open,
            open_born_us: u64::MAX,
            emitted,
            closed: emitted,
            chunks: VecDeque::new(),
            sent: 0,
            have: emitted,
            needs: 0,
            confirmed: emitted,
            kept_bytes: 0,
            resent: 0,
            ended: false,
        }
    }

    pub fn is_destination(&self) -> bool {
        matches!(self.open, Open::Destination(..))
    }

    pub fn emitted(&self) -> u64 {
        self.emitted
    }

    /// Units acknowledged, of those emitted so far.
    pub fn acked(&self) -> u64 {
        self.confirmed.min(self.closed)
    }

    /// The oldest unit that can still be sent again.
    pub fn oldest(&self) -> u64 {
        self.chunks.front().map_or(self.closed, |c| c.start)
    }

    /// Bytes emitted and not acknowledged.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes + self.open_bytes()
    }

    /// The receiver waits for units that were emitted once and are not made again yet.
    pub fn is_behind(&self) -> bool {
        self.emitted < self.needs
    }

    pub fn open_bytes(&self) -> usize {
        match &self.open {
            Open::Channel(builder) => builder.bytes(),
            Open::Destination(bytes, _) => bytes.len(),
        }
    }

    /// False: the destination's format cannot say this tuple.
    pub fn emit(&mut self, key: &[u8], value: &[u8], format: Format, born_us: u64) -> bool {
        self.open_born_us = self.open_born_us.min(born_us);
        match &mut self.open {
            Open::Channel(builder) => {
                builder.push(key, value);
                self.emitted += 1;
                true
            }
            Open::Destination(bytes, tuples) => {
                let before = bytes.len();
                let faithful = write_tuple(format, key, value, bytes);
                *tuples += 1;
                self.emitted += (bytes.len() - before) as u64;
                faithful
            }
        }
    }

    /// A line from the source. `spelled`: with the key written out, for files of few lines.
    pub fn emit_line(
        &mut self,
        file: &Bytes,
        number: u64,
        value: &[u8],
        spelled: bool,
        pos: u64,
        born_us: u64,
    ) {
        let Open::Channel(builder) = &mut self.open else {
            return;
        };
        if spelled || !builder.push_line(file, number, value) {
            let mut key = Vec::new();
            if spelled {
                line_key(file, number, &mut key);
            }
            if !spelled || !builder.push_spelled(&key, value) {
                self.close(pos);
                let Open::Channel(builder) = &mut self.open else {
                    return;
                };
                // An empty builder takes keys of either sort.
                let pushed = if spelled {
                    builder.push_spelled(&key, value)
                } else {
                    builder.push_line(file, number, value)
                };
                debug_assert!(pushed);
            }
        }
        self.open_born_us = self.open_born_us.min(born_us);
        self.emitted += 1;
    }

    /// Closes what is open into a chunk that depends on order record `pos`.
    pub fn close(&mut self, pos: u64) {
        let born_us = std::mem::replace(&mut self.open_born_us, u64::MAX);
        match &mut self.open {
            Open::Channel(builder) if !builder.is_empty() => {
                let batch = builder.take();
                let tuples = batch.len() as u64;
                let payload = wire::encode_data(self.closed, born_us, false, &batch);
                self.keep(payload, tuples, pos, born_us, tuples);
            }
            Open::Destination(bytes, tuples) if !bytes.is_empty() => {
                let capacity = bytes.capacity();
                let payload: Bytes = std::mem::replace(bytes, Vec::with_capacity(capacity)).into();
                let tuples = std::mem::take(tuples);
                self.keep(payload.clone(), payload.len() as u64, pos, born_us, tuples);
            }
            _ => {}
        }
    }

    /// The end mark of a channel; a destination has none.
    pub fn end(&mut self, pos: u64) {
        self.close(pos);
        if let Open::Channel(_) = self.open {
            self.emitted += 1;
            let payload = wire::encode_data(self.closed, u64::MAX, true, &Batch::empty());
            self.keep(payload, 1, pos, u64::MAX, 0);
            self.ended = true;
        }
    }

    /// A new version of the receiver's stage's routing: what follows goes by it.
    pub fn mark(&mut self, route: &Route, pos: u64) {
        self.close(pos);
        if let Open::Channel(_) = self.open {
            self.emitted += 1;
            let payload = wire::encode_mark(self.closed, route);
            self.keep(payload, 1, pos, u64::MAX, 0);
        }
    }

    fn keep(&mut self, payload: Bytes, units: u64, pos: u64, born_us: u64, tuples: u64) {
        let start = self.closed;
        self.closed += units;
        if self.closed > self.confirmed {
            self.kept_bytes += payload.len();
            self.chunks.push_back(Chunk {
                start,
                end: self.closed,
                pos,
                payload,
                born_us,
                tuples,
            });
        }
    }

    /// The receiver says that it has everything below `have`: what lies above is to be sent on the new connection.
    pub fn connect(&mut self, standing: Standing) {
        let Standing { have, needs } = standing;
        self.needs = needs;
        let again = self.chunks.iter().take(self.sent).filter(|c| c.end > have);
        self.resent += again.map(|c| c.tuples).sum::<u64>();
        self.have = have;
        self.sent = 0;
        self.connected = true;
    }

    /// Nothing leaves before the receiver has connected again.
    pub fn disconnect(&mut self) {
        self.connected = false;
    }

    /// Tuples that were sent on an earlier connection and had to be sent again.
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// The next chunk that may leave, given that order records up to `durable` are in the log. On a channel it may begin below
    /// what the receiver has, which drops repeats; a file has somebody else's bytes behind its own, so there it does not.
    pub fn next_chunk(&mut self, durable: u64) -> Option<Chunk> {
        if !self.connected {
            return None;
        }
        let repeats = self.is_destination() && Mutant::StreamRepeats.is_on();
        while !repeats && self.chunks.get(self.sent).is_some_and(|c| c.end <= self.have) {
            self.sent += 1;
        }
        let mut chunk = self.chunks.get(self.sent).filter(|c| c.pos <= durable)?.clone();
        self.sent += 1;
        if self.is_destination() && chunk.start < self.have && !repeats {
            // A restarted task makes its stream again from its checkpoint on.
            let known = (self.have - chunk.start) as usize;
            chunk.payload = chunk.payload.slice(known..);
            chunk.start = self.have;
        }
        Some(chunk)
    }

    /// Units below `upto` are acknowledged: forgets them. Calls `gone` for each chunk that is now wholly acknowledged.
    pub fn acknowledge(&mut self, upto: u64, mut gone: impl FnMut(&Chunk)) {
        self.confirmed = self.confirmed.max(upto);
        // The end mark stays: without a log a receiver's next process knows nothing of it, and would wait.
        while let Some(chunk) = self
            .chunks
            .front()
            .filter(|c| c.end <= self.confirmed && (self.chunks.len() > 1 || !self.ended))
        {
            gone(chunk);
            self.kept_bytes -= chunk.payload.len();
            self.chunks.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
    }
}

/// The key of a line, spelled out.
pub fn line_key(file: &[u8], number: u64, key: &mut Vec<u8>) {
    key.extend_from_slice(file);
    key.push(b':');
    decimal(number, key);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_leave_when_durable_and_go_when_acknowledged() {
        let mut out = Output::channel(10);
        out.connect(Standing::at(10));
        out.emit(b"a", b"1", Format::Tsv, 5);
        out.emit(b"b", b"2", Format::Tsv, 3);
        out.close(1);
        out.emit(b"c", b"3", Format::Tsv, 7);
        out.end(2);
        assert_eq!((out.emitted(), out.oldest()), (14, 10));
        assert!(out.next_chunk(0).is_none());
        let first = out.next_chunk(1).unwrap();
        assert_eq!((first.start, first.end, first.born_us), (10, 12, 3));
        assert!(out.next_chunk(1).is_none());
        assert_eq!(out.next_chunk(2).unwrap().end, 13);
        out.acknowledge(11, |_| panic!("nothing is wholly acknowledged"));
        assert_eq!(out.oldest(), 10, "a chunk is kept whole");
        out.connect(Standing::at(12));
        assert_eq!(out.next_chunk(2).unwrap().start, 12);
        let mut gone = 0;
        out.acknowledge(14, |_| gone += 1);
        assert_eq!((gone, out.oldest()), (2, 13), "but for the end mark");
        out.connect(Standing::at(13));
        assert_eq!(out.next_chunk(2).unwrap().end, 14);
    }

    #[test]
    fn what_the_receiver_has_or_confirmed_before_is_not_sent_when_it_is_made_again() {
        let mut out = Output::destination(0);
        out.connect(Standing::at(6));
        out.acknowledge(3, |_| {});
        for tuple in [b"1", b"2", b"3"] {
            out.emit(b"", tuple, Format::Tsv, 0);
            out.close(1);
        }
        assert_eq!(
            (out.acked(), out.oldest()),
            (3, 3),
            "the first is confirmed, and gone"
        );
        let chunk = out.next_chunk(1).unwrap();
        assert_eq!((chunk.start, chunk.end), (6, 9), "the second is there, and kept");
    }

    #[test]
    fn a_file_is_not_given_the_bytes_that_it_has() {
        let mut out = Output::destination(0);
        out.connect(Standing::at(4));
        out.emit(b"", b"abc", Format::Tsv, 0);
        out.emit(b"", b"def", Format::Tsv, 0);
        out.close(1);
        let whole = out.chunks[0].payload.clone();
        let chunk = out.next_chunk(1).unwrap();
        assert_eq!((chunk.start, &chunk.payload[..]), (4, &whole[4..]));
    }

    #[test]
    fn nothing_leaves_for_a_receiver_that_is_not_connected() {
        let mut out = Output::channel(0);
        out.emit(b"k", b"v", Format::Tsv, 0);
        out.close(1);
        assert!(out.next_chunk(1).is_none());
        out.connect(Standing::at(0));
        assert!(out.next_chunk(1).is_some());
        out.disconnect();
        out.emit(b"k", b"v", Format::Tsv, 0);
        out.close(1);
        assert!(out.next_chunk(1).is_none());
    }
}
