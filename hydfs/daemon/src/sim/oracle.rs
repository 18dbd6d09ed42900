//! What must hold, found out from bytes: every appended record says what it is.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};
use common::ids::Epoch;
use rand::RngExt;

use super::clients::State;
use super::world::{World, WorldEvent};
use crate::replica::{Input, Replica};
use crate::store::mem::MemStore;
use crate::store::{Error, Store};
use hydfs::content::{ClientId, File, FileName};

const HEAD: usize = 1 + 8 + 8 + 8 + 2;

/// A record, to be appended at `offset` of the client's stream.
pub fn record(client: ClientId, epoch: Epoch, offset: u64, filler: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(HEAD + filler);
    bytes.put_u8(0xA5);
    bytes.put_u64(client.0);
    bytes.put_u64(epoch.0);
    bytes.put_u64(offset);
    bytes.put_u16((HEAD + filler) as u16);
    bytes.extend((0..filler).map(|i| {
        if i % 7 == 6 {
            b'\n'
        } else {
            (offset as usize + i * 31) as u8
        }
    }));
    bytes.into()
}

/// Client, epoch, offset, all its bytes.
type Record<'a> = (ClientId, Epoch, u64, &'a [u8]);

/// The records that make up these bytes; an error where bytes are none.
fn records(mut bytes: &[u8]) -> Result<Vec<Record<'_>>, String> {
    let mut records = Vec::new();
    let u64_at = |b: &[u8], i: usize| u64::from_be_bytes(b[i..i + 8].try_into().expect("8 bytes"));
    while !bytes.is_empty() {
        let len = bytes
            .get(25..27)
            .map_or(0, |l| u16::from_be_bytes([l[0], l[1]]) as usize);
        if bytes[0] != 0xA5 || len < HEAD || bytes.len() < len {
            return Err(format!("no record after {} others", records.len()));
        }
        let (this, rest) = bytes.split_at(len);
        records.push((
            ClientId(u64_at(this, 1)),
            Epoch(u64_at(this, 9)),
            u64_at(this, 17),
            this,
        ));
        bytes = rest;
    }
    Ok(records)
}

/// Acknowledged records of one client in one file, by offset; of the newest life of the file.
type Acked = BTreeMap<u64, (Epoch, Bytes)>;

#[derive(Default)]
pub struct Oracle {
    acked: BTreeMap<(FileName, ClientId), Acked>,
    /// By epoch: the nonce, and the length that was answered first.
    fences: BTreeMap<(FileName, ClientId), BTreeMap<Epoch, (u64, u64)>>,
    /// The longest committed content ever seen of a file.
    seen: BTreeMap<(FileName, u64), Vec<u8>>,
    /// By node: its base and length.
    known: BTreeMap<(usize, FileName, u64), (u64, u64)>,
    /// What was acknowledged to be gone.
    trimmed: BTreeMap<FileName, u64>,
    pub trims: u64,
    pub acks: u64,
    pub reads: u64,
}

impl Oracle {
    pub fn acked_bytes(&self, file: &FileName) -> u64 {
        let acked = self.acked.iter().filter(|((f, _), _)| f == file);
        acked
            .flat_map(|(_, a)| a.values())
            .map(|(_, bytes)| bytes.len() as u64)
            .sum()
    }

    /// Was a later epoch of this client told that its stream is open?
    pub fn is_replaced(&self, file: &FileName, client: ClientId, epoch: Epoch) -> bool {
        let fences = self.fences.get(&(file.clone(), client));
        fences
            .and_then(|f| f.last_key_value())
            .is_some_and(|(newest, _)| *newest > epoch)
    }

    pub fn trimmed_to(&self, file: &FileName) -> u64 {
        self.trimmed.get(file).copied().unwrap_or(0)
    }

    /// How many bytes of it were ever read.
    pub fn seen_of(&self, file: &FileName) -> u64 {
        let seen = self.seen.iter().filter(|((f, _), _)| f == file);
        seen.map(|(_, bytes)| bytes.len() as u64).max().unwrap_or(0)
    }

    /// A trim to `asked` is acknowledged with base `now`; `committed` bytes were when it was taken on.
    pub fn trimmed(&mut self, file: &FileName, asked: u64, now: u64, committed: u64) -> Option<String> {
        self.trims += 1;
        let base = self.trimmed.entry(file.clone()).or_default();
        *base = now.max(*base);
        if now < asked {
            return Some(format!("{file} is trimmed to {now}, asked for {asked}"));
        }
        (asked > committed)
            .then(|| format!("{file} is trimmed to {asked} when only {committed} bytes were committed"))
    }

    pub fn forget_node(&mut self, node: usize) {
        self.known.retain(|(n, ..), _| *n != node);
    }

    pub fn removed(&mut self, file: &FileName) {
        self.acked.retain(|(f, _), _| f != file);
    }

    pub fn appended(
        &mut self,
        file: &FileName,
        client: ClientId,
        offset: u64,
        payload: &[u8],
        length: u64,
    ) -> Option<String> {
        let key = (file.clone(), client);
        if length < offset + payload.len() as u64 {
            return Some(format!(
                "{file}: acknowledged {length}, appended at {offset} {}",
                payload.len()
            ));
        }
        for (_, epoch, offset, bytes) in records(payload).expect("clients append records") {
            self.acks += 1;
            let acked = self.acked.entry(key.clone()).or_default();
            let (_, first) = acked
                .entry(offset)
                .or_insert((epoch, Bytes::copy_from_slice(bytes)));
            if first != bytes {
                return Some(format!("{file}: two histories of {client:?} at {offset}"));
            }
            let end = offset + bytes.len() as u64;
            let fences = self
                .fences
                .get(&key)
                .into_iter()
                .flat_map(|f| f.range(Epoch(epoch.0 + 1)..));
            for (newer, (_, fence)) in fences {
                if end > *fence {
                    return Some(format!(
                        "{file}: {client:?} epoch {epoch} is acknowledged up to {end}, epoch {newer} fenced at {fence}"
                    ));
                }
            }
        }
        None
    }

    pub fn fenced(
        &mut self,
        file: &FileName,
        client: ClientId,
        epoch: Epoch,
        nonce: u64,
        length: u64,
    ) -> Option<String> {
        let key = (file.clone(), client);
        let fences = self.fences.entry(key.clone()).or_default();
        if let Some((other, _)) = fences.get(&epoch) {
            let wrong =
                (*other != nonce).then(|| format!("{file}: two processes have epoch {epoch} of {client:?}"));
            return wrong;
        }
        fences.insert(epoch, (nonce, length));
        let older = self.acked.get(&key)?.iter().filter(|(_, (e, _))| *e < epoch);
        let end = older
            .map(|(offset, (_, bytes))| offset + bytes.len() as u64)
            .max()
            .unwrap_or(0);
        (end > length)
            .then(|| format!("{file}: epoch {epoch} of {client:?} is told {length}, {end} was acknowledged"))
    }
}

/// The file's bytes from `base` up to `length` as a node has them; `None` when it misses some.
fn content(
    replica: &Replica<MemStore>,
    name: &FileName,
    base: u64,
    length: u64,
) -> Option<Result<Vec<u8>, Error>> {
    let range = replica.range_of(name);
    let mut bytes = Vec::new();
    let len = length.saturating_sub(base);
    for slice in replica.store().file(range, name)?.slices(base, len) {
        if slice.missing {
            return None;
        }
        match replica
            .store()
            .read(range, name, slice.segment, slice.offset, slice.len)
        {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok(bytes))
}

/// Somebody reads a file at some node: only what is committed, never less than before, never anything else than others see.
pub fn read(w: &mut World) {
    w.after(20, 120, WorldEvent::Read);
    let node = w.rng.random_range(0..w.n);
    let files = w.clients.files.len();
    let name = w.clients.files[w.rng.random_range(0..files)].clone();
    read_at(w, node, &name);
}

/// Somebody wants to trim the file to `base`, and asks `node`: what is committed there, if all of it was read by now.
pub fn seen_up_to(w: &mut World, node: usize, name: &FileName, base: u64) -> Option<u64> {
    read_at(w, node, name);
    let committed = w.nodes[node]
        .replica
        .as_ref()?
        .committed(name)
        .map_or(0, |k| k.length);
    let seen = w.oracle.seen_of(name);
    (committed.min(base) <= seen).then_some(committed)
}

fn read_at(w: &mut World, node: usize, name: &FileName) {
    let Some(replica) = &w.nodes[node].replica else {
        return;
    };
    let Some(known) = replica.committed(name) else {
        return;
    };
    let range = replica.range_of(name);
    let (key, now) = ((node, name.clone(), known.nonce), (known.base, known.length));
    let last = w.oracle.known.insert(key, now).unwrap_or_default();
    if now.0 < last.0 || now.1 < last.1 {
        return w.wrong(format!("node {node}: {name} shrinks from {last:?} to {now:?}"));
    }
    if known.base > 0 && replica.readable(name, None, known.base - 1).is_ok() {
        return w.wrong(format!("node {node}: {name} is read below {}", known.base));
    }
    // It has trimmed nothing that it does not hold. That all have as much it may learn a moment later: who reads meanwhile is told less.
    let (base, held) = replica
        .store()
        .file(range, name)
        .map_or((0, 0), |f| (f.base, f.length()));
    if base > w.oracle.seen_of(name) || base > held && known.current {
        let what = format!("node {node}: {name} begins at {base}, and has {held}");
        return w.wrong(what);
    }
    if base > known.length {
        return;
    }
    let bytes = match content(replica, name, base, known.length) {
        None => return,
        Some(Ok(bytes)) => bytes,
        Some(Err(Error::Damaged { segment, .. })) => {
            return w.input(
                node,
                Input::Damaged {
                    range,
                    file: name.clone(),
                    segment,
                },
            );
        }
        Some(Err(error)) => return w.wrong(format!("node {node}: reading {name}: {error}")),
    };
    w.oracle.reads += 1;
    if bytes.len() as u64 != known.length.saturating_sub(base) {
        let what = format!(
            "node {node}: {name} has {} bytes from {base}, committed {}",
            bytes.len(),
            known.length
        );
        return w.wrong(what);
    }
    let seen = w.oracle.seen.entry((name.clone(), known.nonce)).or_default();
    let bytes = [&seen[..(base as usize).min(seen.len())], &bytes].concat();
    let common = seen.len().min(bytes.len());
    if seen[..common] != bytes[..common] {
        return w.wrong(format!("node {node}: {name} was read with other bytes before"));
    }
    if bytes.len() > seen.len() {
        *seen = bytes;
    }
}

/// All is healed: is everything there?
pub fn check_all(w: &mut World) {
    let names: Vec<FileName> = w.clients.processes.iter().map(|p| p.file.clone()).collect();
    for name in &names {
        if let Some(wrong) = check_file(w, name) {
            return w.wrong(wrong);
        }
    }
    if let Some(wrong) = check_scripts(w) {
        w.wrong(wrong);
    }
}

/// Files that are created and removed are there, or not, as the one who does it was told last.
fn check_scripts(w: &World) -> Option<String> {
    let (_, first) = w.up().next()?;
    for process in &w.clients.processes {
        let Some(script) = &process.script else { continue };
        let range = first.range_of(&process.file);
        let set = first.replicas_of(range);
        for (node, replica) in w.up().filter(|(n, _)| set.iter().any(|s| s.0 as usize == *n)) {
            let nonce = replica.store().file(range, &process.file).map(|f| f.nonce);
            let wrong = match process.state {
                State::Append | State::Fence => nonce != Some(process.nonce),
                _ => script.absent && nonce.is_some_and(|n| n != process.nonce),
            };
            if wrong {
                return Some(format!(
                    "node {node}: {} ({:?}) has nonce {nonce:?}",
                    process.file, process.state
                ));
            }
        }
    }
    None
}

/// Reads everything everywhere; flipped bits are reported to the nodes. How many there were.
pub fn scrub(w: &mut World) -> usize {
    let mut found = 0;
    for node in 0..w.n {
        for range in w.ring.ranges().collect::<Vec<_>>() {
            let Some(replica) = &w.nodes[node].replica else {
                continue;
            };
            let mut damaged = Vec::new();
            for (name, file) in replica.store().files(range) {
                for segment in file.segments.iter().filter(|s| !s.missing) {
                    if replica
                        .store()
                        .read(range, name, segment.id, 0, segment.bytes)
                        .is_err()
                    {
                        damaged.push((name.clone(), segment.id));
                    }
                }
            }
            found += damaged.len();
            for (file, segment) in damaged {
                w.input(node, Input::Damaged { range, file, segment });
            }
        }
    }
    found
}

/// Does the file take more room than it may, for what there is of it?
fn space(w: &World, file: &File) -> Option<String> {
    const LONGEST: u64 = 8 * (HEAD as u64 + 60);
    let limits = super::world::limits(w.n);
    let dead = file.base - file.dropped.bytes;
    if dead > limits.bytes + LONGEST {
        return Some(format!("keeps {dead} bytes below its base"));
    }
    let large = file
        .segments
        .iter()
        .find(|s| s.bytes > limits.bytes + LONGEST || s.entries > limits.entries);
    large.map(|s| format!("has segment {} of {} bytes, {} entries", s.id, s.bytes, s.entries))
}

fn check_file(w: &World, name: &FileName) -> Option<String> {
    let (_, first) = w.up().next()?;
    let range = first.range_of(name);
    let set = super::naive::members(w, range, first.view());
    let mut copies = Vec::new();
    for n in &set {
        let replica = w.nodes[*n].replica.as_ref()?;
        let Some(file) = replica.store().file(range, name) else {
            continue;
        };
        let bytes = match content(replica, name, file.base, file.length()) {
            Some(Ok(bytes)) => bytes,
            other => return Some(format!("node {n}: {name} can't be read: {other:?}")),
        };
        let acked = w.oracle.trimmed_to(name);
        if file.base < acked || file.base > file.length() {
            return Some(format!(
                "node {n}: {name} of {} bytes begins at {}, and was trimmed to {acked}",
                file.length(),
                file.base
            ));
        }
        // What was read before it was trimmed, and what there is now.
        let seen = w.oracle.seen.get(&(name.clone(), file.nonce));
        let gone = seen.and_then(|seen| seen.get(..file.base as usize));
        if file.base > 0 && gone.is_none() {
            return Some(format!(
                "node {n}: {name} was trimmed to {} before it was read",
                file.base
            ));
        }
        let bytes = [gone.unwrap_or_default(), &bytes].concat();
        let newlines = bytes.iter().filter(|b| **b == b'\n').count() as u64;
        if newlines != file.newlines() {
            return Some(format!("node {n}: {name} does not count {newlines} newlines"));
        }
        if let Some(wrong) = space(w, file) {
            return Some(format!("node {n}: {name} {wrong}"));
        }
        copies.push((bytes, file.base, file.head().streams, file.nonce));
    }
    let acked: Vec<_> = w.oracle.acked.iter().filter(|((f, _), _)| f == name).collect();
    if copies.is_empty() {
        return (!acked.is_empty()).then(|| format!("{name} is gone"));
    }
    if copies.len() != w.n.min(3) || copies.iter().any(|c| *c != copies[0]) {
        let lens: Vec<_> = copies.iter().map(|(b, ..)| b.len()).collect();
        return Some(format!("{name}: replicas differ: {lens:?} bytes on {set:?}"));
    }
    let found = match records(&copies[0].0) {
        Ok(found) => found,
        Err(wrong) => return Some(format!("{name}: {wrong}")),
    };
    let mut streams: BTreeMap<ClientId, u64> = BTreeMap::new();
    let mut there: BTreeMap<(ClientId, u64), &[u8]> = BTreeMap::new();
    for (client, epoch, offset, bytes) in found {
        let end = streams.entry(client).or_default();
        if offset != *end {
            return Some(format!(
                "{name}: {client:?} epoch {epoch} has a record for {offset} at {end}"
            ));
        }
        *end += bytes.len() as u64;
        there.insert((client, offset), bytes);
    }
    for ((_, client), acked) in acked {
        for (offset, (epoch, bytes)) in acked {
            if there.get(&(*client, *offset)) != Some(&&bytes[..]) {
                return Some(format!(
                    "{name}: {client:?} epoch {epoch}: the acknowledged record at {offset} is lost"
                ));
            }
        }
    }
    None
}
