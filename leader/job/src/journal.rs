//! The job's journal, `jobs/<job>/journal` in HyDFS: the plan and every launch, so that another leader can take the job
//! up with nothing from this one's machine. What is in it: [`crate::record`].

use std::collections::VecDeque;
use std::time::Duration;

use common::clock;
use common::ids::{Epoch, JobName};
use common::signals::Stop;
use hydfs::client::{Appender, Client, Error};

use crate::plan::Change;
use crate::record::{Damage, Entry, Record, Ticket, VERSION, decode_some};
use crate::state::JobState;

pub fn name(job: &JobName) -> String {
    format!("jobs/{job}/journal")
}

/// The job whose journal the file is.
pub fn job_of(file: &str) -> Option<JobName> {
    let job = file.strip_prefix("jobs/")?.strip_suffix("/journal")?;
    JobName::new(job).ok()
}

pub(crate) const WRITER: &str = "leader";
/// While storage is away the job goes on as well as it can, for so long.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes that are known to be stored are there at once, except in the middle of a take-over.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Each try meets another leader that takes the job up at this moment, or met one that has died since.
const MOST_TRIES: u32 = 20;
/// A journal is rewritten when it has grown by so much, and by so many times what it comes to.
const REWRITE_FROM: u64 = 64 * 1024;
const REWRITE_TIMES: u64 = 4;
/// Figures are a few kilobytes.
const MOST_SUMMARY: u64 = 1 << 20;

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

/// The figures of a job that has ended, as JSON.
pub fn summary_name(job: &JobName) -> String {
    format!("jobs/{job}/summary")
}

/// What a leader left there at its end; `None`: it left none.
pub async fn read_summary(client: &Client, job: &JobName) -> Result<Option<Vec<u8>>, Error> {
    let name = summary_name(job);
    let len = match client.stat(&name).await {
        Ok(stat) => stat.len.min(MOST_SUMMARY) as usize,
        Err(Error::NoSuchFile { .. }) => return Ok(None),
        Err(other) => return Err(other),
    };
    let bytes = client.tail(&*name, 0, len, Duration::from_secs(1)).await?;
    Ok(Some(bytes.to_vec()))
}

/// Leaves the figures of a job, in place of those of an earlier end.
pub async fn write_summary(client: &Client, job: &JobName, text: &[u8]) -> Result<(), Error> {
    let name = summary_name(job);
    match client.remove(&name).await {
        Ok(()) | Err(Error::NoSuchFile { .. }) => {}
        Err(other) => return Err(other),
    }
    client.put(text, &name, &Stop::never(), |_| {}).await.map(drop)
}

/// All records of a job's journal as it is now, whoever may be writing it.
pub async fn read(client: &Client, job: &JobName) -> Result<Vec<Record>, OpenError> {
    let name = name(job);
    let stat = client.stat(&name).await?;
    read_range(client, &name, stat.base, stat.len).await
}

/// From its base on, which may move meanwhile: then the record of the state behind it is there as well.
async fn read_range(
    client: &Client,
    name: &str,
    mut base: u64,
    mut len: u64,
) -> Result<Vec<Record>, OpenError> {
    let mut all = vec![];
    let began = clock::now();
    while base + (all.len() as u64) < len {
        if clock::now().since(began) > READ_WITHIN {
            return Err(OpenError::Short(name.into()));
        }
        let at = base + all.len() as u64;
        let most = (len - at).min(1 << 20) as usize;
        let wait = Duration::from_secs(1);
        match client.tail(name, at, most, wait).await {
            Ok(piece) => all.extend_from_slice(&piece),
            Err(Error::Trimmed { base: now, .. }) => {
                all.clear();
                base = now;
                len = len.max(client.stat(name).await?.len);
            }
            Err(other) => return Err(other.into()),
        }
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
        let stat = client.stat(&name).await?;
        let records = read_range(client, &name, stat.base, stat.len).await?;
        let follower = Self {
            client: client.clone(),
            name,
            at: stat.len,
            rest: vec![],
        };
        Ok((follower, records))
    }

    /// What has come since; nothing when nothing came within `wait`. Not to be dropped half-way.
    pub async fn next(&mut self, wait: Duration) -> Result<Vec<Record>, OpenError> {
        const PIECE: usize = 1 << 20;
        let from = self.at + self.rest.len() as u64;
        match self.client.tail(&*self.name, from, PIECE, wait).await {
            Ok(piece) => self.rest.extend_from_slice(&piece),
            // The record of the state that is there comes to all that is missed.
            Err(Error::Trimmed { base, .. }) => {
                self.at = base;
                self.rest.clear();
                return Ok(vec![]);
            }
            Err(other) => return Err(other.into()),
        }
        let (records, at) = decode_some(&self.rest)?;
        self.rest.drain(..at);
        self.at += at as u64;
        Ok(records)
    }
}

/// Writes the journal. Records are stored in order; nobody waits for each. A journal that has outgrown what it comes to is
/// rewritten: a record of that is appended, and what is before it is trimmed once the record is stored.
pub struct Journal {
    appender: Appender,
    /// By how much the file's bytes are ahead of this stream's.
    shift: u64,
    /// Changes that are being stored: where each ends.
    tickets: VecDeque<(u64, Ticket)>,
    /// What all records come to.
    state: Option<JobState>,
    /// Bytes since the newest record of the state, and the length of that.
    grown: u64,
    state_len: u64,
    /// A record of the state is being stored: where it ends, and where in the file it begins.
    rewriting: Option<(u64, u64)>,
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
                    let stat = client.stat(&name).await?;
                    let len = stat.len.max(appender.length());
                    let records = read_range(client, &name, stat.base, len).await?;
                    let mut journal = Self::new(appender);
                    journal.shift = len - journal.appender.length();
                    journal.state = JobState::of(&records);
                    journal.grown = len - stat.base;
                    return Ok((journal, records, epoch));
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
            shift: 0,
            tickets: VecDeque::new(),
            state: None,
            grown: 0,
            state_len: 0,
            rewriting: None,
        }
    }

    pub fn write(&mut self, entry: Entry) {
        let record = Record {
            v: VERSION,
            at_us: clock::unix_micros(),
            entry,
        };
        JobState::take(&mut self.state, &record);
        self.grown += self.append(&record);
        if self.rewriting.is_none() && self.grown >= REWRITE_FROM.max(REWRITE_TIMES * self.state_len) {
            self.rewrite();
        }
    }

    /// Returns how many bytes the record has.
    fn append(&mut self, record: &Record) -> u64 {
        match record.encode() {
            Ok(bytes) => {
                let len = bytes.len() as u64;
                self.appender.append(bytes);
                len
            }
            Err(error) => {
                tracing::error!(error = %error, "JOURNAL_FAILED");
                0
            }
        }
    }

    fn rewrite(&mut self) {
        let Some(state) = self.state.clone() else { return };
        let record = Record {
            v: VERSION,
            at_us: state.life.last_us,
            entry: Entry::State(Box::new(state)),
        };
        let from = self.shift + self.appender.queued();
        self.state_len = self.append(&record);
        self.grown = 0;
        if self.state_len > 0 {
            self.rewriting = Some((self.appender.queued(), from));
        }
    }

    /// All up to `acked` is stored.
    fn trim_if_rewritten(&mut self, acked: u64) {
        if let Some((_, from)) = self.rewriting.take_if(|(end, _)| *end <= acked) {
            self.appender.trim(from);
            tracing::info!(base = from, state = self.state_len, "JOURNAL_REWRITTEN");
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
        self.trim_if_rewritten(acked);
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
        self.appender.wait_acked(all).await?;
        self.trim_if_rewritten(all);
        Ok(())
    }
}
