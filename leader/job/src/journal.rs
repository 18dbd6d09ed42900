//! The job's journal, `jobs/<job>/journal` in HyDFS: the plan and every launch, so that another leader can take the job
//! up with nothing from this one's machine. What is in it: [`crate::record`].

use std::collections::VecDeque;
use std::time::Duration;

use common::clock;
use common::ids::{Epoch, JobName};
use hydfs::client::{Appender, Client, Error};

use crate::plan::Change;
use crate::record::{Damage, Entry, Record, Ticket, VERSION, decode_some};

pub fn name(job: &JobName) -> String {
    format!("jobs/{job}/journal")
}

const WRITER: &str = "leader";
/// While storage is away the job goes on as well as it can, for so long.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes that are known to be stored are there at once, except in the middle of a take-over.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Each try meets another leader that takes the job up at this moment, or met one that has died since.
const MOST_TRIES: u32 = 20;

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Storage(#[from] Error),
    #[error(transparent)]
    Damaged(#[from] Damage),
    #[error("{0} cannot be read in full")]
    Short(String),
    #[error("other leaders take the job up again and again")]
    Contended,
}

/// All records of a job's journal as it is now, whoever may be writing it.
pub async fn read(client: &Client, job: &JobName) -> Result<Vec<Record>, OpenError> {
    let name = name(job);
    let len = client.stat(&name).await?.len;
    read_to(client, &name, len).await
}

async fn read_to(client: &Client, name: &str, len: u64) -> Result<Vec<Record>, OpenError> {
    let mut all = vec![];
    let began = clock::now();
    while (all.len() as u64) < len {
        if clock::now().since(began) > READ_WITHIN {
            return Err(OpenError::Short(name.into()));
        }
        let most = (len - all.len() as u64).min(1 << 20) as usize;
        let wait = Duration::from_secs(1);
        all.extend_from_slice(&client.tail(name, all.len() as u64, most, wait).await?);
    }
    // HyDFS keeps appends whole. Behind a torn record nothing could be written that is ever read again.
    match decode_some(&all)? {
        (records, at) if at == all.len() => Ok(records),
        (_, at) => Err(Damage::Torn { at }.into()),
    }
}

/// A journal that is read on as it grows, whoever writes it.
pub struct Follower {
    client: Client,
    name: String,
    /// Where the next record begins.
    at: u64,
    rest: Vec<u8>,
}

impl Follower {
    /// Also returns what is in it now.
    pub async fn begin(client: &Client, job: &JobName) -> Result<(Self, Vec<Record>), OpenError> {
        let name = name(job);
        let len = client.stat(&name).await?.len;
        let records = read_to(client, &name, len).await?;
        let follower = Self {
            client: client.clone(),
            name,
            at: len,
            rest: vec![],
        };
        Ok((follower, records))
    }

    /// What has come since; nothing when nothing came within `wait`. Not to be dropped half-way.
    pub async fn next(&mut self, wait: Duration) -> Result<Vec<Record>, OpenError> {
        const PIECE: usize = 1 << 20;
        let from = self.at + self.rest.len() as u64;
        let piece = self.client.tail(&*self.name, from, PIECE, wait).await?;
        self.rest.extend_from_slice(&piece);
        let (records, at) = decode_some(&self.rest)?;
        self.rest.drain(..at);
        self.at += at as u64;
        Ok(records)
    }
}

/// Writes the journal. Records are stored in order; nobody waits for each.
pub struct Journal {
    appender: Appender,
    /// Changes that are being stored: where each ends.
    tickets: VecDeque<(u64, Ticket)>,
}

impl Journal {
    /// Makes the journal: the one leader that succeeds owns the job's name.
    pub async fn create(client: &Client, job: &JobName) -> Result<Self, Error> {
        let name = name(job);
        client.create(&name).await?;
        let appender = client.with_patience(PATIENCE);
        let appender = appender.open_append(&name, WRITER, Epoch(1), false).await?;
        Ok(Self::new(appender))
    }

    /// Takes the journal over: whoever wrote it before can do so no more. Returns what is in it, and the epoch under which
    /// it is open now.
    pub async fn take_over(client: &Client, job: &JobName) -> Result<(Self, Vec<Record>, Epoch), OpenError> {
        let name = name(job);
        let patient = client.with_patience(PATIENCE);
        let mut epoch = Epoch(2);
        for _ in 0..MOST_TRIES {
            match patient.open_append(&name, WRITER, epoch, false).await {
                Ok(appender) => {
                    // From the fence on nothing is added. A journal that was copied is not this stream's alone.
                    let len = client.stat(&name).await?.len.max(appender.length());
                    let records = read_to(client, &name, len).await?;
                    return Ok((Self::new(appender), records, epoch));
                }
                Err(Error::Fenced { epoch: newest, .. }) => epoch = Epoch(newest.0.max(epoch.0) + 1),
                Err(other) => return Err(other.into()),
            }
        }
        Err(OpenError::Contended)
    }

    fn new(appender: Appender) -> Self {
        Self {
            appender,
            tickets: VecDeque::new(),
        }
    }

    pub fn write(&mut self, entry: Entry) {
        let record = Record {
            v: VERSION,
            at_us: clock::unix_micros(),
            entry,
        };
        match record.encode() {
            Ok(bytes) => self.appender.append(bytes),
            Err(error) => tracing::error!(error = %error, "JOURNAL_FAILED"),
        }
    }

    /// Writes a change; [`Journal::settled`] tells when it is durable.
    pub fn change(&mut self, ticket: Ticket, change: Change) {
        self.write(Entry::Change(change));
        self.tickets.push_back((self.appender.queued(), ticket));
    }

    /// Waits while something is being stored, and for ever when nothing is; returns the changes that have become durable,
    /// in their order. [`Error::Fenced`]: another leader has taken the job up. Cancel-safe.
    pub async fn settled(&mut self) -> Result<Vec<Ticket>, Error> {
        if self.appender.acked() >= self.appender.queued() && self.tickets.is_empty() {
            std::future::pending::<()>().await;
        }
        let due = self.tickets.front().map(|(end, _)| *end);
        let acked = match due {
            Some(end) if end <= self.appender.acked() => self.appender.acked(),
            _ => self.appender.changed().await?,
        };
        let mut settled = vec![];
        while let Some((_, ticket)) = self.tickets.front().filter(|(end, _)| *end <= acked) {
            settled.push(*ticket);
            self.tickets.pop_front();
        }
        Ok(settled)
    }

    /// Until all that was written is durable.
    pub async fn flush(&mut self) -> Result<(), Error> {
        let all = self.appender.queued();
        self.appender.wait_acked(all).await.map(drop)
    }
}
