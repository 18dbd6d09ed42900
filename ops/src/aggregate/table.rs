//! State per key, and its rolling snapshots.
//!
//! A snapshot is one *delta*; deltas are restored in order, and a later one wins, key by key:
//! ```text
//! delta = version (u8)  tag (u8, which aggregate)  n (u32)  n * entry
//! entry = key length (u32)  key  state (length known from its tag and first bytes)
//! ```
//! Integers are little-endian. Checksums are the log's and HyDFS's business.
//!
//! Each delta holds what changed and moves a cursor on over the rest, in the order in which the keys first came. Where
//! it arrives at the end a *round* has ended: everything is in the deltas since the round's beginning. What came into a
//! delta because it changed is passed over by the cursor in the same round, and keys that are new stand behind it.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// What is kept for a key, and how it goes into a snapshot.
pub trait State: Default + Send {
    /// Tells snapshots of different operators apart.
    const TAG: u8;
    /// The version of the form in which it is saved; `load` knows all from 1 on.
    const VERSION: u8 = 1;
    /// Why a state cannot be saved.
    type Unsaveable;
    fn save(&self, out: &mut Vec<u8>) -> Result<(), Self::Unsaveable>;
    /// The state at the front of `input`, which is cut off; `None`: it is damaged.
    fn load(input: &mut &[u8]) -> Option<Self>;
}

pub fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = input.split_first_chunk()?;
    *input = tail;
    Some(*head)
}

/// One key's state on its way to another task: `version (u8)  tag (u8)  state`.
pub fn save_one<S: State>(state: &S, out: &mut Vec<u8>) -> Result<(), S::Unsaveable> {
    out.extend_from_slice(&[S::VERSION, S::TAG]);
    state.save(out)
}

pub fn load_one<S: State>(mut input: &[u8]) -> Result<S, Error> {
    check_head::<S>(&mut input)?;
    S::load(&mut input)
        .filter(|_| input.is_empty())
        .ok_or(Error::Damaged)
}

fn check_head<S: State>(input: &mut &[u8]) -> Result<(), Error> {
    let [version, tag] = take(input).ok_or(Error::Damaged)?;
    if !(1..=S::VERSION).contains(&version) {
        return Err(Error::Version(version, S::VERSION));
    }
    match tag == S::TAG {
        true => Ok(()),
        false => Err(Error::Operator(tag, S::TAG)),
    }
}

/// A snapshot that this operator cannot take in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it is of version {0}, this program knows versions 1 to {1}")]
    Version(u8, u8),
    #[error("it was made by another operator (tag {0:#04x}, here {1:#04x})")]
    Operator(u8, u8),
    #[error("it is cut short or damaged")]
    Damaged,
}

struct Entry<S> {
    key: Box<[u8]>,
    state: S,
    /// The batch that last touched it.
    batch: u64,
    /// The round of snapshots that has it, if that is the one under way.
    round: u32,
    dirty: bool,
}

impl<S: State> Entry<S> {
    fn save(&self, out: &mut Vec<u8>) -> Result<(), S::Unsaveable> {
        out.extend_from_slice(&(self.key.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.key);
        self.state.save(out)
    }
}

pub struct Table<S> {
    /// Not the hash that partitions tuples over tasks: all keys here agree in some of its bits. Seeded anew in each
    /// process, so nothing may depend on this table's order: entries have their own, and output is ordered otherwise.
    hasher: DefaultHashBuilder,
    index: HashTable<u32>,
    entries: Vec<Entry<S>>,
    dirty: Vec<u32>,
    batch: u64,
    /// Counted from 1: an entry that no round has says 0.
    round: u32,
    /// All entries before this one are in the deltas of this round.
    cursor: usize,
    key_bytes: usize,
}

impl<S> Default for Table<S> {
    fn default() -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            index: HashTable::new(),
            entries: vec![],
            dirty: vec![],
            batch: 0,
            round: 1,
            cursor: 0,
            key_bytes: 0,
        }
    }
}

/// A key's state, about to change.
pub struct Touch<'a, S> {
    pub entry: u32,
    pub state: &'a mut S,
    /// Since the last `next_batch`.
    pub first_in_batch: bool,
}

impl<S: State> Table<S> {
    pub fn next_batch(&mut self) {
        self.batch += 1;
    }

    /// The entry of `key`, made if there is none. The state at hand is marked as changed.
    pub fn touch(&mut self, key: &[u8]) -> Touch<'_, S> {
        let at = self.find_or_add(key);
        let entry = &mut self.entries[at as usize];
        if !entry.dirty {
            entry.dirty = true;
            self.dirty.push(at);
        }
        let first_in_batch = std::mem::replace(&mut entry.batch, self.batch) != self.batch;
        Touch {
            entry: at,
            state: &mut entry.state,
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
            state: S::default(),
            batch: 0,
            round: 0,
            dirty: false,
        });
        index.insert_unique(hash, at, |at| hasher.hash_one(&*entries[*at as usize].key));
        self.key_bytes += key.len();
        at
    }

    pub fn get(&self, entry: u32) -> (&[u8], &S) {
        let entry = &self.entries[entry as usize];
        (&entry.key, &entry.state)
    }

    /// Removes the keys for which `leaves` says so, and gives them with their state, in the order of the keys' bytes. The
    /// round of snapshots begins anew.
    pub fn take_out(&mut self, leaves: &dyn Fn(&[u8]) -> bool) -> Vec<(Box<[u8]>, S)> {
        let (gone, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|entry| leaves(&entry.key));
        self.index.clear();
        self.dirty.clear();
        for (at, entry) in left.iter().enumerate() {
            let at = at as u32;
            let hash = self.hasher.hash_one(&*entry.key);
            self.index
                .insert_unique(hash, at, |at| self.hasher.hash_one(&*left[*at as usize].key));
            if entry.dirty {
                self.dirty.push(at);
            }
        }
        self.entries = left;
        self.key_bytes -= gone.iter().map(|entry| entry.key.len()).sum::<usize>();
        self.new_round();
        let mut gone: Vec<_> = gone.into_iter().map(|entry| (entry.key, entry.state)).collect();
        gone.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        gone
    }

    /// All of it, in the order of the keys' bytes.
    pub fn sorted(&self) -> impl Iterator<Item = (&[u8], &S)> {
        let mut order: Vec<u32> = (0..self.entries.len() as u32).collect();
        order.sort_unstable_by(|a, b| self.entries[*a as usize].key.cmp(&self.entries[*b as usize].key));
        order.into_iter().map(|at| self.get(at))
    }

    pub fn bytes(&self) -> usize {
        self.key_bytes + self.entries.capacity() * size_of::<Entry<S>>() + self.index.allocation_size()
    }

    /// Appends one delta (nothing, if it would be empty): what changed, and at least `rewrite` bytes of the rest, or
    /// all that is left of this round. True: the round ends with it. After an error nothing here is to be used.
    pub fn snapshot(&mut self, rewrite: usize, out: &mut Vec<u8>) -> Result<bool, S::Unsaveable> {
        let begin = out.len();
        out.extend_from_slice(&[S::VERSION, S::TAG, 0, 0, 0, 0]);
        let header = out.len();
        let mut count = 0u32;
        for at in self.dirty.drain(..) {
            let entry = &mut self.entries[at as usize];
            (entry.dirty, entry.round) = (false, self.round);
            entry.save(out)?;
            count += 1;
        }
        let changed = out.len();
        while let Some(entry) = self.entries.get_mut(self.cursor) {
            if entry.round != self.round {
                if out.len() - changed >= rewrite {
                    break;
                }
                entry.round = self.round;
                entry.save(out)?;
                count += 1;
            }
            self.cursor += 1;
        }
        match count {
            0 => out.truncate(begin),
            n => out[header - 4..header].copy_from_slice(&n.to_le_bytes()),
        }
        let ended = self.cursor == self.entries.len();
        if ended {
            self.new_round();
        }
        Ok(ended)
    }

    fn new_round(&mut self) {
        self.cursor = 0;
        // After 2^32 rounds an entry could seem to be of the new one: none is, from here on.
        self.round = self.round.checked_add(1).unwrap_or_else(|| {
            self.entries.iter_mut().for_each(|e| e.round = 0);
            1
        });
    }

    pub fn restore(&mut self, mut input: &[u8]) -> Result<(), Error> {
        while !input.is_empty() {
            check_head::<S>(&mut input)?;
            let count = u32::from_le_bytes(take(&mut input).ok_or(Error::Damaged)?);
            for _ in 0..count {
                let length = u32::from_le_bytes(take(&mut input).ok_or(Error::Damaged)?) as usize;
                let (key, rest) = input.split_at_checked(length).ok_or(Error::Damaged)?;
                input = rest;
                let state = S::load(&mut input).ok_or(Error::Damaged)?;
                let at = self.find_or_add(key);
                self.entries[at as usize].state = state;
            }
        }
        self.new_round();
        Ok(())
    }
}
