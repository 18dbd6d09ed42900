//! Reads that wait: for their turn, or for a file to grow.

use std::collections::{BTreeMap, VecDeque};

use common::clock::Time;
use common::ids::Creation;

use hydfs::content::{FileName, Segment, SegmentId};

/// A bulk read, to be served in its turn.
pub struct PendingRead {
    pub conn: u64,
    pub call: u64,
    pub what: BulkRead,
}

pub enum BulkRead {
    Read {
        file: FileName,
        of: Option<Creation>,
        offset: u64,
        len: u64,
    },
    Fetch {
        file: FileName,
        nonce: u64,
        segment: Segment,
        at: u64,
    },
    Verify {
        file: FileName,
        nonce: u64,
        segment: SegmentId,
        at: u64,
    },
}

/// A reader that waits for a file to grow.
pub struct TailReader {
    pub conn: u64,
    pub call: u64,
    pub of: Option<Creation>,
    /// It has what lies before.
    pub offset: u64,
    pub max: u64,
    pub until: Time,
}

/// How many there may be of one client, its calls' limit says.
#[derive(Default)]
pub struct PendingReads {
    due: VecDeque<PendingRead>,
    tails: BTreeMap<FileName, Vec<TailReader>>,
}

impl PendingReads {
    pub fn push(&mut self, read: PendingRead) {
        self.due.push_back(read);
    }

    pub fn extend(&mut self, reads: impl IntoIterator<Item = PendingRead>) {
        self.due.extend(reads);
    }

    pub fn next(&mut self) -> Option<PendingRead> {
        self.due.pop_front()
    }

    pub fn are_due(&self) -> bool {
        !self.due.is_empty()
    }

    pub fn wait(&mut self, file: FileName, reader: TailReader) {
        self.tails.entry(file).or_default().push(reader);
    }

    /// The file may be read up to `length`: whoever waited for that has its turn.
    pub fn wake(&mut self, file: &FileName, length: u64) {
        let Some(readers) = self.tails.get_mut(file) else {
            return;
        };
        for reader in readers.extract_if(.., |r| r.offset < length) {
            let what = BulkRead::Read {
                file: file.clone(),
                of: reader.of,
                offset: reader.offset,
                len: reader.max,
            };
            let TailReader { conn, call, .. } = reader;
            self.due.push_back(PendingRead { conn, call, what });
        }
    }

    pub fn tailed_files(&self) -> Vec<FileName> {
        self.tails.keys().cloned().collect()
    }

    /// The connection has ended.
    pub fn gone(&mut self, conn: u64) {
        self.take_if(|_, reader| reader.conn == conn);
    }

    pub fn take_if(&mut self, which: impl Fn(&FileName, &TailReader) -> bool) -> Vec<(FileName, TailReader)> {
        let mut taken = Vec::new();
        self.tails.retain(|file, readers| {
            let these = readers.extract_if(.., |r| which(file, r));
            taken.extend(these.map(|r| (file.clone(), r)));
            !readers.is_empty()
        });
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(conn: u64, offset: u64) -> TailReader {
        TailReader {
            conn,
            call: conn,
            of: None,
            offset,
            max: 10,
            until: Time::ZERO,
        }
    }

    #[test]
    fn readers_have_their_turn_when_the_file_has_grown_beyond_what_they_have() {
        let (mut reads, file) = (PendingReads::default(), FileName::new("f").unwrap());
        reads.wait(file.clone(), reader(1, 5));
        reads.wait(file.clone(), reader(2, 9));
        reads.wake(&FileName::new("other").unwrap(), 100);
        reads.wake(&file, 5);
        assert!(!reads.are_due());
        reads.wake(&file, 9);
        assert_eq!(reads.next().map(|r| r.conn), Some(1));
        assert!(!reads.are_due() && reads.tailed_files() == [file]);
    }

    #[test]
    fn readers_of_a_connection_that_ended_wait_no_more() {
        let (mut reads, file) = (PendingReads::default(), FileName::new("f").unwrap());
        reads.wait(file.clone(), reader(1, 5));
        reads.wait(file.clone(), reader(2, 5));
        reads.gone(1);
        let left = reads.take_if(|name, _| *name == file);
        assert_eq!(left.iter().map(|(_, r)| r.conn).collect::<Vec<_>>(), [2]);
        assert!(reads.tailed_files().is_empty());
    }
}
