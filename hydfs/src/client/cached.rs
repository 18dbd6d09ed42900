//! Reading through the cache: the coordinator says which file it is and how long, the cache gives what it has of it, replicas the rest.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use common::ids::Creation;

use super::Client;
use super::cache::{BLOCK, Cache, Key};
use super::error::{Error, check_name};
use super::stream::{self, ReadStream};
use crate::wire::client::FileStat;

/// The bytes of a file, piece by piece, from the cache where it has them.
pub struct CachedStream {
    client: Client,
    file: String,
    stat: FileStat,
    at: u64,
    end: u64,
    cache: Option<(Arc<Cache>, Key)>,
    /// What comes from replicas now, up to where.
    fetching: Option<(ReadStream, u64)>,
    /// The beginning of the block that `at` lies in, as far as it came by.
    block: Option<BytesMut>,
}

impl CachedStream {
    pub(super) async fn open(client: &Client, file: &str, range: Range<u64>) -> Result<Self, Error> {
        check_name(file)?;
        let stat = stream::size(&client.nodes, file, client.patience).await?;
        if range.start < stat.base {
            return Err(Error::Trimmed {
                file: file.into(),
                base: stat.base,
            });
        }
        let key = Key::new(file, stat.nonce);
        let cache = client.cache.clone().filter(|c| c.takes(stat.len));
        Ok(Self {
            client: client.clone(),
            file: file.into(),
            at: range.start.min(stat.len),
            end: range.end.min(stat.len),
            stat,
            cache: cache.map(|c| (c, key)),
            fetching: None,
            block: None,
        })
    }

    /// The file's committed length when this was opened.
    pub fn len(&self) -> u64 {
        self.stat.len
    }

    /// Where the file began when this was opened.
    pub fn base(&self) -> u64 {
        self.stat.base
    }

    /// The file held nothing when this was opened.
    pub fn is_empty(&self) -> bool {
        self.stat.len == 0
    }

    /// The next piece; `None` at the end. After an error nothing more comes.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            if let Some((fetching, until)) = &mut self.fetching {
                let until = *until;
                match fetching.next().await {
                    Some(Ok(bytes)) => {
                        self.fetched(&bytes);
                        return Some(Ok(bytes));
                    }
                    Some(Err(error)) => {
                        self.at = self.end;
                        return Some(Err(error));
                    }
                    None => {
                        self.fetching = None;
                        debug_assert_eq!(self.at, until, "a stream ends where it was to end, or fails");
                    }
                }
                continue;
            }
            if self.at >= self.end {
                return None;
            }
            if let Some(bytes) = self.kept() {
                self.at += bytes.len() as u64;
                return Some(Ok(bytes));
            }
            let until = self.fetch_until();
            let stream = ReadStream::start(
                self.client.nodes.clone(),
                (&*self.file, Creation(self.stat.nonce)).into(),
                self.at..until,
                self.client.patience,
                Some(self.stat.clone()),
            );
            self.fetching = Some((stream, until));
        }
    }

    /// What the cache has from `at` on.
    fn kept(&mut self) -> Option<Bytes> {
        let (cache, key) = self.cache.as_ref()?;
        let (block, skip) = (self.at / BLOCK, (self.at % BLOCK) as usize);
        let most = (self.end - self.at).min(BLOCK - skip as u64) as usize;
        // Of what lies behind the committed length nothing is ever there: it was committed when it was kept.
        match cache.get(*key, block) {
            Some(bytes) if bytes.len() > skip => {
                cache.hits.fetch_add(1, Ordering::Relaxed);
                let part = bytes.slice(skip..bytes.len().min(skip + most));
                // More of it may follow from a replica.
                let partly = (bytes.len() as u64) < BLOCK && skip + part.len() == bytes.len();
                self.block = partly.then(|| BytesMut::from(&bytes[..]));
                Some(part)
            }
            Some(bytes) => {
                cache.misses.fetch_add(1, Ordering::Relaxed);
                self.block = (bytes.len() == skip).then(|| BytesMut::from(&bytes[..]));
                None
            }
            None => {
                cache.misses.fetch_add(1, Ordering::Relaxed);
                self.block = (skip == 0).then(BytesMut::new);
                None
            }
        }
    }

    /// Up to the next block that is here as a whole.
    fn fetch_until(&self) -> u64 {
        let Some((cache, key)) = &self.cache else {
            return self.end;
        };
        let mut block = self.at / BLOCK + 1;
        while block * BLOCK < self.end && cache.len(*key, block) == 0 {
            block += 1;
        }
        (block * BLOCK).min(self.end)
    }

    fn fetched(&mut self, mut bytes: &[u8]) {
        let Some((cache, key)) = &self.cache else {
            self.at += bytes.len() as u64;
            return;
        };
        while !bytes.is_empty() {
            let room = (BLOCK - self.at % BLOCK).min(bytes.len() as u64) as usize;
            let (now, rest) = bytes.split_at(room);
            let number = self.at / BLOCK;
            if self.at.is_multiple_of(BLOCK) {
                self.block = Some(BytesMut::new());
            }
            self.at += room as u64;
            bytes = rest;
            if let Some(block) = &mut self.block {
                block.extend_from_slice(now);
                if self.at.is_multiple_of(BLOCK) || self.at == self.end {
                    cache.put(*key, number, block);
                    self.block = None;
                }
            }
        }
    }
}
