//! Framed records in files: `length (u32) | check of the length (u32) | XXH3-64 of the body (u64) | body`, little-endian; the body
//! is MessagePack with named fields. A file begins with eight bytes that say what it is and in which version.
//!
//! The length has a check of its own, so that a damaged length is not taken for an interrupted write, and all behind it cut off.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub const MAGIC_LEN: u64 = 8;
/// Length and checksums before each body.
pub const HEAD: usize = 16;
/// No body is longer: checked before anything is allocated.
const MAX_BODY: usize = 64 * 1024 * 1024;

fn head(len: u32, body: &[u8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&len.to_le_bytes());
    head[4..8].copy_from_slice(&length_check(len).to_le_bytes());
    head[8..].copy_from_slice(&xxh3_64(body).to_le_bytes());
    head
}

/// Seeded, so that a head of zeros is no head.
fn length_check(len: u32) -> u32 {
    xxh3_64_with_seed(&len.to_le_bytes(), 0x0048_5944_4653) as u32
}

/// Adds one record to `out`.
pub fn put(record: &impl Serialize, out: &mut Vec<u8>) -> io::Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    rmp_serde::encode::write_named(out, record).map_err(io::Error::other)?;
    let body = start + HEAD;
    let len = u32::try_from(out.len() - body)
        .ok()
        .filter(|n| *n as usize <= MAX_BODY);
    let len = len.ok_or_else(|| io::Error::other("a record is too long"))?;
    let head = head(len, &out[body..]);
    out[start..body].copy_from_slice(&head);
    Ok(())
}

/// What lies at a position of a file.
#[derive(Debug)]
pub enum Found<T> {
    /// A whole record, and where it ends.
    Record(T, u64),
    /// Nothing: the file ends here.
    End,
    /// The beginning of a record whose writing was interrupted (or room that was never written): to be cut off.
    Torn,
    /// Something else than was written.
    Damaged,
}

/// Reads a file front to back through one buffer, skipping what is not asked for.
pub struct Scan<'a> {
    file: &'a File,
    size: u64,
    buffer: Vec<u8>,
    /// Where `buffer` begins in the file.
    at: u64,
}

const STEP: usize = 64 * 1024;

impl<'a> Scan<'a> {
    pub fn new(file: &'a File) -> io::Result<Self> {
        Ok(Self {
            file,
            size: file.metadata()?.len(),
            buffer: Vec::new(),
            at: 0,
        })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// `len` bytes at `position`; fewer at the end of the file.
    pub fn bytes(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        let end = position.saturating_add(len as u64).min(self.size);
        let have = self.at..self.at + self.buffer.len() as u64;
        if position < have.start || end > have.end {
            let want = len.max(STEP).min(self.size.saturating_sub(position) as usize);
            self.buffer.resize(want, 0);
            self.at = position;
            self.file.read_exact_at(&mut self.buffer, position)?;
        }
        let from = (position - self.at) as usize;
        Ok(&self.buffer[from.min(self.buffer.len())..(end.max(position) - self.at) as usize])
    }

    pub fn record<T: DeserializeOwned>(&mut self, position: u64) -> io::Result<Found<T>> {
        if position >= self.size {
            return Ok(Found::End);
        }
        let Some(head) = self.bytes(position, HEAD)?.first_chunk::<HEAD>().copied() else {
            return Ok(Found::Torn);
        };
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let body_len = word(0) as usize;
        if length_check(word(0)) != word(4) || body_len > MAX_BODY {
            let unwritten = head == [0; HEAD] && self.zeros(position)?;
            return Ok(if unwritten { Found::Torn } else { Found::Damaged });
        }
        let body = self.bytes(position + HEAD as u64, body_len)?;
        if body.len() < body_len {
            return Ok(Found::Torn);
        }
        if xxh3_64(body).to_le_bytes() != head[8..] {
            return Ok(Found::Damaged);
        }
        match rmp_serde::from_slice(body) {
            Ok(record) => Ok(Found::Record(record, position + (HEAD + body_len) as u64)),
            Err(_) => Ok(Found::Damaged),
        }
    }

    /// Is there nothing but zeros from `position` on?
    fn zeros(&mut self, mut position: u64) -> io::Result<bool> {
        while position < self.size {
            let bytes = self.bytes(position, STEP)?;
            if bytes.iter().any(|b| *b != 0) {
                return Ok(false);
            }
            position += bytes.len() as u64;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn all(bytes: &[u8]) -> (Vec<String>, Found<()>) {
        let file = file(bytes);
        let mut scan = Scan::new(&file).unwrap();
        let (mut at, mut got) = (0, vec![]);
        loop {
            match scan.record::<String>(at).unwrap() {
                Found::Record(r, next) => (at, _) = (next, got.push(r)),
                Found::End => return (got, Found::End),
                Found::Torn => return (got, Found::Torn),
                Found::Damaged => return (got, Found::Damaged),
            }
        }
    }

    proptest! {
        #[test]
        fn records_round_trip_and_a_cut_loses_only_the_last(records in prop::collection::vec(".{0,40}", 1..8), cut in 0usize..20, flip: (prop::sample::Index, u8)) {
            let mut bytes = vec![];
            let mut ends = vec![0];
            for r in &records {
                put(r, &mut bytes).unwrap();
                ends.push(bytes.len());
            }
            prop_assert_eq!(&all(&bytes).0, &records);
            let keep = bytes.len() - cut.min(bytes.len());
            let (got, end) = all(&bytes[..keep]);
            let whole = ends.iter().filter(|e| **e <= keep).count() - 1;
            prop_assert_eq!(&got[..], &records[..whole]);
            prop_assert_eq!(matches!(end, Found::End), ends.contains(&keep));
            let at = flip.0.index(bytes.len());
            bytes[at] ^= 1 << (flip.1 % 8);
            let (got, end) = all(&bytes);
            let before = ends.iter().filter(|e| **e <= at).count() - 1;
            prop_assert_eq!(&got[..], &records[..before]);
            prop_assert!(matches!(end, Found::Damaged));
        }
    }

    #[test]
    fn room_that_was_never_written_is_torn_not_damaged() {
        let mut bytes = vec![];
        put(&"a", &mut bytes).unwrap();
        bytes.extend([0; 100_000]);
        assert!(matches!(all(&bytes), (got, Found::Torn) if got == ["a"]));
        bytes.push(1);
        assert!(matches!(all(&bytes), (_, Found::Damaged)));
    }
}
