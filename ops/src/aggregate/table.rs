//! State per key, and its snapshots.
//!
//! A snapshot is any number of *deltas*, end to end; a later one wins, key by key:
//! ```text
//! delta = version (u8 = 1)  tag (u8, which aggregate)  n (u32)  n * entry
//! entry = key length (u32)  key  accumulator (length known from its tag and first byte)
//! ```
//! Integers are little-endian. Checksums are the log's and HyDFS's business.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::accumulators::{Accumulator, take};

const VERSION: u8 = 1;

/// A snapshot that this operator cannot take in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it is of version {0}, this program knows version {VERSION}")]
    Version(u8),
    #[error("it was made by another operator (tag {0:#04x}, here {1:#04x})")]
    Operator(u8, u8),
    #[error("it is cut short or damaged")]
    Damaged,
}

struct Entry<A> {
    key: Box<[u8]>,
    accumulator: A,
    /// The batch that last touched it.
    batch: u64,
    dirty: bool,
}

pub struct Table<A> {
    /// Not the hash that partitions tuples over tasks: all keys here agree in some of its bits. Seeded anew in each
    /// process, so nothing may depend on this table's order: entries have their own, and output is ordered otherwise.
    hasher: DefaultHashBuilder,
    index: HashTable<u32>,
    entries: Vec<Entry<A>>,
    dirty: Vec<u32>,
    batch: u64,
    key_bytes: usize,
}

impl<A> Default for Table<A> {
    fn default() -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            index: HashTable::new(),
            entries: vec![],
            dirty: vec![],
            batch: 0,
            key_bytes: 0,
        }
    }
}

/// A key's state, about to change.
pub struct Touch<'a, A> {
    pub entry: u32,
    pub accumulator: &'a mut A,
    /// Since the last `next_batch`.
    pub first_in_batch: bool,
}

impl<A: Accumulator> Table<A> {
    pub fn next_batch(&mut self) {
        self.batch += 1;
    }

    /// The entry of `key`, made if there is none. The state at hand is marked as changed.
    pub fn touch(&mut self, key: &[u8]) -> Touch<'_, A> {
        let at = self.find_or_add(key);
        let entry = &mut self.entries[at as usize];
        if !entry.dirty {
            entry.dirty = true;
            self.dirty.push(at);
        }
        let first_in_batch = std::mem::replace(&mut entry.batch, self.batch) != self.batch;
        Touch {
            entry: at,
            accumulator: &mut entry.accumulator,
            first_in_batch,
        }
    }

    fn find_or_add(&mut self, key: &[u8]) -> u32 {
        let Self {
            hasher,
            index,
            entries,
            ..
        } = self;
        let hash = hasher.hash_one(key);
        if let Some(at) = index.find(hash, |at| *entries[*at as usize].key == *key) {
            return *at;
        }
        // More than 2^32 keys would need a hundred gigabytes first.
        let at = entries.len() as u32;
        entries.push(Entry {
            key: key.into(),
            accumulator: A::default(),
            batch: 0,
            dirty: false,
        });
        index.insert_unique(hash, at, |at| hasher.hash_one(&*entries[*at as usize].key));
        self.key_bytes += key.len();
        at
    }

    pub fn get(&self, entry: u32) -> (&[u8], &A) {
        let entry = &self.entries[entry as usize];
        (&entry.key, &entry.accumulator)
    }

    /// All of it, in the order of the keys' bytes.
    pub fn sorted(&self) -> impl Iterator<Item = (&[u8], &A)> {
        let mut order: Vec<u32> = (0..self.entries.len() as u32).collect();
        order.sort_unstable_by(|a, b| self.entries[*a as usize].key.cmp(&self.entries[*b as usize].key));
        order.into_iter().map(|at| self.get(at))
    }

    pub fn bytes(&self) -> usize {
        self.key_bytes + self.entries.capacity() * size_of::<Entry<A>>() + self.index.allocation_size()
    }

    /// Appends one delta: of all keys, or of those changed since the last snapshot. Appends nothing for none.
    pub fn snapshot(&mut self, all: bool, out: &mut Vec<u8>) {
        let dirty = std::mem::take(&mut self.dirty);
        for at in &dirty {
            self.entries[*at as usize].dirty = false;
        }
        let count = if all { self.entries.len() } else { dirty.len() };
        if count == 0 {
            return;
        }
        out.extend_from_slice(&[VERSION, A::TAG]);
        out.extend_from_slice(&(count as u32).to_le_bytes());
        let mut put = |entry: &Entry<A>| {
            out.extend_from_slice(&(entry.key.len() as u32).to_le_bytes());
            out.extend_from_slice(&entry.key);
            entry.accumulator.save(out);
        };
        match all {
            true => self.entries.iter().for_each(put),
            false => dirty.iter().for_each(|at| put(&self.entries[*at as usize])),
        }
    }

    pub fn restore(&mut self, mut input: &[u8]) -> Result<(), Error> {
        while !input.is_empty() {
            let [version, tag] = take(&mut input).ok_or(Error::Damaged)?;
            if version != VERSION {
                return Err(Error::Version(version));
            }
            if tag != A::TAG {
                return Err(Error::Operator(tag, A::TAG));
            }
            let count = u32::from_le_bytes(take(&mut input).ok_or(Error::Damaged)?);
            for _ in 0..count {
                let length = u32::from_le_bytes(take(&mut input).ok_or(Error::Damaged)?) as usize;
                let (key, rest) = input.split_at_checked(length).ok_or(Error::Damaged)?;
                input = rest;
                let accumulator = A::load(&mut input).ok_or(Error::Damaged)?;
                let at = self.find_or_add(key);
                self.entries[at as usize].accumulator = accumulator;
            }
        }
        Ok(())
    }
}
