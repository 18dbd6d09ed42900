//! Batches of tuples laid out as columns: the unit on the wire, in the operator protocol and in memory.
//!
//! A column is its values' end offsets (32-bit little-endian) and their bytes, one after the other; a value is a slice.
//! The keys that the source makes, `file:1`, `file:4`, ..., are a file name, a first number and a step: nobody spells
//! them out until somebody reads them.

use std::convert::Infallible;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A batch that came over the wire is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a batch's columns do not fit together: {0}")]
pub struct Malformed(&'static str);

/// Byte strings laid end to end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Column {
    /// Where the first value starts in `data`.
    start: u32,
    /// End offset of each value, 4 bytes little-endian.
    ends: Bytes,
    data: Bytes,
}

impl Column {
    fn end(&self, i: usize) -> usize {
        let at = 4 * i;
        u32::from_le_bytes([
            self.ends[at],
            self.ends[at + 1],
            self.ends[at + 2],
            self.ends[at + 3],
        ]) as usize
    }

    pub fn get(&self, i: usize) -> &[u8] {
        let from = if i == 0 {
            self.start as usize
        } else {
            self.end(i - 1)
        };
        &self.data[from..self.end(i)]
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut from = self.start as usize;
        self.ends.chunks_exact(4).map(move |end| {
            let end = u32::from_le_bytes([end[0], end[1], end[2], end[3]]) as usize;
            let value = &self.data[from..end];
            from = end;
            value
        })
    }

    fn skip(&mut self, n: usize) {
        if n > 0 {
            self.start = self.end(n - 1) as u32;
            self.ends = self.ends.slice(4 * n..);
        }
    }

    fn check(&self, len: usize) -> Result<(), Malformed> {
        if self.ends.len() != 4 * len {
            return Err(Malformed("the number of ends is not the number of tuples"));
        }
        if !ends_rise(&self.ends, self.start) {
            return Err(Malformed("the ends go backwards"));
        }
        let last = match len {
            0 => self.start as usize,
            n => self.end(n - 1),
        };
        if last > self.data.len() {
            return Err(Malformed("an end lies behind the data"));
        }
        Ok(())
    }
}

/// Whether offsets (4 bytes little-endian each) never go backwards, nor begin before `from`. Without a way out before
/// the end, so that it is done several at a time.
pub fn ends_rise(ends: &[u8], from: u32) -> bool {
    let ends = ends.as_chunks().0;
    let value = |end: &[u8; 4]| u32::from_le_bytes(*end);
    let (Some(first), Some(later)) = (ends.first(), ends.get(1..)) else {
        return true;
    };
    let backwards = ends
        .iter()
        .zip(later)
        .map(|(a, b)| u32::from(value(a) > value(b)));
    value(first) >= from && backwards.fold(0, |any, one| any | one) == 0
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Keys {
    /// `file:first`, `file:(first + step)`, ...
    Lines {
        file: Bytes,
        first: u64,
        step: u64,
    },
    Column(Column),
}

/// Some tuples `<key, value>`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    len: usize,
    keys: Keys,
    values: Column,
}

impl Batch {
    pub fn empty() -> Self {
        Self {
            len: 0,
            keys: Keys::Column(Column::default()),
            values: Column::default(),
        }
    }

    /// A batch of two columns, each the values' end offsets (4 bytes little-endian each) and their bytes.
    pub fn from_columns(keys: (Bytes, Bytes), values: (Bytes, Bytes)) -> Result<Self, Malformed> {
        let len = values.0.len() / 4;
        let column = |(ends, data)| {
            let column = Column { start: 0, ends, data };
            column.check(len).map(|()| column)
        };
        Ok(Self {
            len,
            keys: Keys::Column(column(keys)?),
            values: column(values)?,
        })
    }

    /// Number of tuples.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes held, roughly: for flow control.
    pub fn bytes(&self) -> usize {
        let keys = match &self.keys {
            Keys::Lines { file, .. } => file.len() + 16,
            Keys::Column(c) => c.ends.len() + c.data.len(),
        };
        keys + self.values.ends.len() + self.values.data.len()
    }

    pub fn value(&self, i: usize) -> &[u8] {
        self.values.get(i)
    }

    /// Spells out key `i` at the end of `out`.
    pub fn key_into(&self, i: usize, out: &mut Vec<u8>) {
        match &self.keys {
            Keys::Lines { file, first, step } => {
                out.extend_from_slice(file);
                out.push(b':');
                decimal(first + step * i as u64, out);
            }
            Keys::Column(c) => out.extend_from_slice(c.get(i)),
        }
    }

    /// Calls `f` with every key and value, in order, until it fails.
    pub fn try_for_each<E>(&self, mut f: impl FnMut(&[u8], &[u8]) -> Result<(), E>) -> Result<(), E> {
        match &self.keys {
            Keys::Lines { file, first, step } => {
                let mut key = Vec::with_capacity(file.len() + 21);
                key.extend_from_slice(file);
                key.push(b':');
                let prefix = key.len();
                let mut number = *first;
                for value in self.values.iter() {
                    key.truncate(prefix);
                    decimal(number, &mut key);
                    number += step;
                    f(&key, value)?;
                }
            }
            Keys::Column(keys) => {
                for (key, value) in keys.iter().zip(self.values.iter()) {
                    f(key, value)?;
                }
            }
        }
        Ok(())
    }

    pub fn for_each(&self, mut f: impl FnMut(&[u8], &[u8])) {
        let done: Result<(), Infallible> = self.try_for_each(|k, v| {
            f(k, v);
            Ok(())
        });
        match done {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }

    /// Calls `f` with every index and value: for who does not need the keys spelled out.
    pub fn try_for_each_value<E>(&self, mut f: impl FnMut(usize, &[u8]) -> Result<(), E>) -> Result<(), E> {
        self.values
            .iter()
            .enumerate()
            .try_for_each(|(i, value)| f(i, value))
    }

    /// All values end to end, without gaps: for one search over the whole batch. Value `i` ends at `value_end(i)`.
    pub fn values_joined(&self) -> &[u8] {
        match self.len {
            0 => &[],
            n => &self.values.data[self.values.start as usize..self.values.end(n - 1)],
        }
    }

    /// The first value, from `from` on, that ends behind byte `at` of [`Self::values_joined`]; the number of values if none
    /// does.
    pub fn value_with(&self, from: usize, at: usize) -> usize {
        const AT_ONCE: usize = 16;
        let mut value = from;
        for ends in self.values.ends[4 * from..4 * self.len].chunks(4 * AT_ONCE) {
            let end = |end: &[u8; 4]| u32::from_le_bytes(*end) - self.values.start;
            let before = ends
                .as_chunks()
                .0
                .iter()
                .filter(|e| end(e) as usize <= at)
                .count();
            value += before;
            if 4 * before < ends.len() {
                break;
            }
        }
        value
    }

    /// Where value `i` ends in [`Self::values_joined`].
    pub fn value_end(&self, i: usize) -> usize {
        self.values.end(i) - self.values.start as usize
    }

    /// Appends where the first `n` values end in [`Self::values_joined`], 4 bytes little-endian each.
    pub fn value_ends_into(&self, n: usize, out: &mut Vec<u8>) {
        let ends = &self.values.ends[..4 * n];
        let at = out.len();
        out.extend_from_slice(ends);
        if self.values.start > 0 {
            for end in out[at..].as_chunks_mut::<4>().0 {
                *end = (u32::from_le_bytes(*end) - self.values.start).to_le_bytes();
            }
        }
    }

    /// Drops the first `n` tuples, without copying.
    pub fn skip(&mut self, n: usize) {
        let n = n.min(self.len);
        self.len -= n;
        match &mut self.keys {
            Keys::Lines { first, step, .. } => *first += *step * n as u64,
            Keys::Column(c) => c.skip(n),
        }
        self.values.skip(n);
    }

    /// The batch as it goes into a frame: borrows the columns.
    pub fn wire(&self) -> Wire<'_> {
        let keys = match &self.keys {
            Keys::Lines { file, first, step } => {
                KeysWire::Lines(serde_bytes::Bytes::new(file), *first, *step)
            }
            Keys::Column(c) => KeysWire::Column(ColumnWire::of(c)),
        };
        Wire(self.len as u32, keys, ColumnWire::of(&self.values))
    }

    /// The batch in `frame`, from which `wire` was decoded: shares the frame's memory. Everything is checked here, so
    /// that no later access can fail.
    pub fn from_wire(wire: &Wire<'_>, frame: &Bytes) -> Result<Self, Malformed> {
        let len = wire.0 as usize;
        let keys = match &wire.1 {
            KeysWire::Lines(file, first, step) => {
                let last = step.checked_mul(len as u64).and_then(|d| d.checked_add(*first));
                last.ok_or(Malformed("line numbers overflow"))?;
                Keys::Lines {
                    file: frame.slice_ref(file),
                    first: *first,
                    step: *step,
                }
            }
            KeysWire::Column(c) => Keys::Column(c.column(len, frame)?),
        };
        Ok(Self {
            len,
            keys,
            values: wire.2.column(len, frame)?,
        })
    }
}

/// A batch inside a frame: arrays, with the columns as MessagePack `bin`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Wire<'a>(
    u32,
    #[serde(borrow)] KeysWire<'a>,
    #[serde(borrow)] ColumnWire<'a>,
);

#[derive(Debug, Serialize, Deserialize)]
enum KeysWire<'a> {
    #[serde(rename = "l")]
    Lines(#[serde(borrow)] &'a serde_bytes::Bytes, u64, u64),
    #[serde(rename = "c")]
    Column(#[serde(borrow)] ColumnWire<'a>),
}

#[derive(Debug, Serialize, Deserialize)]
struct ColumnWire<'a>(
    u32,
    #[serde(borrow)] &'a serde_bytes::Bytes,
    #[serde(borrow)] &'a serde_bytes::Bytes,
);

impl<'a> ColumnWire<'a> {
    fn of(c: &'a Column) -> Self {
        Self(
            c.start,
            serde_bytes::Bytes::new(&c.ends),
            serde_bytes::Bytes::new(&c.data),
        )
    }
    fn column(&self, len: usize, frame: &Bytes) -> Result<Column, Malformed> {
        let column = Column {
            start: self.0,
            ends: frame.slice_ref(self.1),
            data: frame.slice_ref(self.2),
        };
        column.check(len)?;
        Ok(column)
    }
}

/// Builds one batch after the other, reusing its memory's size.
#[derive(Debug, Default)]
pub struct Builder {
    len: usize,
    lines: Option<(Bytes, u64, u64)>,
    key_ends: Vec<u8>,
    keys: Vec<u8>,
    value_ends: Vec<u8>,
    values: Vec<u8>,
}

impl Builder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn bytes(&self) -> usize {
        self.keys.len() + self.values.len() + self.key_ends.len() + self.value_ends.len()
    }

    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        debug_assert!(self.lines.is_none(), "a batch has keys of one sort");
        self.len += 1;
        self.keys.extend_from_slice(key);
        self.key_ends
            .extend_from_slice(&(self.keys.len() as u32).to_le_bytes());
        self.push_value(value);
    }

    /// For the source: the line of the given number. False, and nothing pushed, when the number does not continue this
    /// batch's run: close the batch first.
    #[must_use]
    pub fn push_line(&mut self, file: &Bytes, number: u64, value: &[u8]) -> bool {
        match &mut self.lines {
            None if self.len == 0 => self.lines = Some((file.clone(), number, 1)),
            Some((f, first, step)) if f == file => {
                if self.len == 1 && number > *first {
                    *step = number - *first;
                } else if number != *first + *step * self.len as u64 {
                    return false;
                }
            }
            _ => return false,
        }
        self.len += 1;
        self.push_value(value);
        true
    }

    /// Like [`Builder::push`]; false, and nothing pushed, when this batch holds lines.
    #[must_use]
    pub fn push_spelled(&mut self, key: &[u8], value: &[u8]) -> bool {
        if self.lines.is_some() {
            return false;
        }
        self.push(key, value);
        true
    }

    fn push_value(&mut self, value: &[u8]) {
        self.values.extend_from_slice(value);
        self.value_ends
            .extend_from_slice(&(self.values.len() as u32).to_le_bytes());
    }

    /// Calls `f` with every key and value pushed so far, in order, and starts anew with the same memory. Not for lines.
    pub fn drain(&mut self, mut f: impl FnMut(&[u8], &[u8])) {
        let (mut key_from, mut value_from) = (0, 0);
        let offset = |end: &[u8; 4]| u32::from_le_bytes(*end) as usize;
        let (key_ends, value_ends) = (self.key_ends.as_chunks().0, self.value_ends.as_chunks().0);
        for (key_end, value_end) in key_ends.iter().zip(value_ends) {
            let (key_to, value_to) = (offset(key_end), offset(value_end));
            f(&self.keys[key_from..key_to], &self.values[value_from..value_to]);
            (key_from, value_from) = (key_to, value_to);
        }
        self.len = 0;
        for column in [
            &mut self.key_ends,
            &mut self.keys,
            &mut self.value_ends,
            &mut self.values,
        ] {
            column.clear();
        }
    }

    /// The batch built so far; the builder starts anew.
    pub fn take(&mut self) -> Batch {
        fn column(ends: &mut Vec<u8>, data: &mut Vec<u8>) -> Column {
            let next = (Vec::with_capacity(ends.len()), Vec::with_capacity(data.len()));
            let ends = std::mem::replace(ends, next.0);
            Column {
                start: 0,
                ends: ends.into(),
                data: std::mem::replace(data, next.1).into(),
            }
        }
        let values = column(&mut self.value_ends, &mut self.values);
        let keys = match self.lines.take() {
            Some((file, first, step)) => Keys::Lines { file, first, step },
            None => Keys::Column(column(&mut self.key_ends, &mut self.keys)),
        };
        Batch {
            len: std::mem::take(&mut self.len),
            keys,
            values,
        }
    }
}

/// Appends `n` in decimal.
pub fn decimal(mut n: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The stable hash that partitions tuples over tasks: XXH3, 64 bits. Part of the contract between versions.
pub fn key_hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

#[cfg(test)]
mod tests;
