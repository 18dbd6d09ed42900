//! What an operator is to the worker: fed with whole batches, single-threaded, its state in rolling snapshots.

use protocol::batch::Batch;
use protocol::control::Failure;

/// How much of a key or of an output line an error quotes, in characters.
const QUOTED: usize = 200;

/// Receives an operator's output tuples, in order.
pub trait Emit {
    fn emit(&mut self, key: &[u8], value: &[u8]);
}

/// Where no outputs can come.
pub(crate) struct Nowhere;

impl Emit for Nowhere {
    fn emit(&mut self, _: &[u8], _: &[u8]) {}
}

/// What an operator does with the keys of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKeys {
    /// It looks into them.
    Read,
    /// Each output takes that of its tuple, unseen.
    Passed,
    /// Outputs have others.
    Ignored,
}

/// An operator that runs inside the worker.
///
/// Its outputs must depend on nothing but its arguments, its state and the batches given (their ends included): a
/// restarted task gets the same batches again and must say the same.
pub trait Operator: Send {
    /// After an error the operator's state is not to be used: what came before the tuple is in it, the rest is not.
    fn process(&mut self, batch: &Batch, out: &mut dyn Emit) -> Result<(), Error>;

    /// Spelling keys out and carrying them costs time.
    fn input_keys(&self) -> InputKeys {
        InputKeys::Read
    }

    /// The input has ended: emits what was held back (`--emit final`). Called once.
    fn finish(&mut self, _out: &mut dyn Emit) -> Result<(), Error> {
        Ok(())
    }

    /// Appends the state of every key that changed since the last snapshot and, in turn, of other keys: at least
    /// `rewrite` bytes of them, or all that are left of this round. Snapshots are self-delimiting: restored in order,
    /// one by one or end to end, they give the state. Appends nothing when there is nothing to say.
    ///
    /// True: a round ends with this snapshot. Since the last one that said so (else since the start or the restoring)
    /// every key that exists has been appended, so whatever was appended before that round began may be forgotten.
    /// Thus no snapshot holds the whole state unless all of it changed, and what is needed is always a suffix.
    fn snapshot(&mut self, _rewrite: usize, _out: &mut Vec<u8>) -> bool {
        true
    }

    /// Takes in one or several snapshots.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Error> {
        match snapshot.is_empty() {
            true => Ok(()),
            false => Err(Error::fatal(
                "this operator keeps no state, but was given a snapshot to restore",
            )),
        }
    }

    /// Takes out every key for which `leaves` says so, and emits it with its state, in the order of the keys' bytes. What
    /// snapshots hold of it is no part of the state any more.
    fn hand_over(&mut self, _leaves: &dyn Fn(&[u8]) -> bool, _out: &mut dyn Emit) {}

    /// Takes in keys with their state, as another's `hand_over` emitted them. Later snapshots have them.
    fn adopt(&mut self, state: &Batch) -> Result<(), Error> {
        match state.is_empty() {
            true => Ok(()),
            false => Err(Error::fatal(
                "this operator keeps no state, but was given keys with theirs",
            )),
        }
    }

    /// Memory that the state takes, roughly.
    fn state_bytes(&self) -> usize {
        0
    }
}

/// An operator cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}{}", at_key(.key))]
pub struct Error {
    pub what: String,
    /// The key of the tuple at which it stumbled: lossy UTF-8, shortened.
    pub key: Option<String>,
    /// Which tuple of the batch that was, counted from 0; set wherever `key` is.
    pub index: Option<usize>,
    /// A foreign operator's last lines on standard error.
    pub stderr: Vec<String>,
    /// False: it would only happen again (a missing file, a snapshot of something else).
    pub restart_helps: bool,
}

fn at_key(key: &Option<String>) -> String {
    key.as_ref()
        .map(|k| format!(", at the tuple with key `{k}`"))
        .unwrap_or_default()
}

impl Error {
    /// A tuple that the operator cannot digest: its number in the batch and its key.
    pub fn poison(what: impl Into<String>, index: usize, key: &[u8]) -> Self {
        Self {
            what: what.into(),
            key: Some(quoted(key)),
            index: Some(index),
            stderr: vec![],
            restart_helps: true,
        }
    }

    /// [`Self::poison`], where the key has not been spelled out.
    pub(crate) fn refused(what: impl std::fmt::Display, batch: &Batch, index: usize) -> Self {
        let mut key = vec![];
        batch.key_into(index, &mut key);
        Self::poison(what.to_string(), index, &key)
    }

    /// A failure that a new process may not have.
    pub fn failed(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            key: None,
            index: None,
            stderr: vec![],
            restart_helps: true,
        }
    }

    /// Something that no restart mends.
    pub fn fatal(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            key: None,
            index: None,
            stderr: vec![],
            restart_helps: false,
        }
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure {
            what: e.what,
            key: e.key,
            unit: None,
            stderr: e.stderr,
            fatal: !e.restart_helps,
        }
    }
}

/// Bytes as an error message shows them: lossy UTF-8, shortened, on one line, nothing for a terminal to obey.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    // A character has at most 4 bytes: what lies behind cannot be among the first `QUOTED`.
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * QUOTED + 4)]);
    let mut text: String = head.chars().take(QUOTED).collect();
    if text.len() < head.len() || bytes.len() > 4 * QUOTED + 4 {
        text.push_str("...");
    }
    common::shown::line(&text).into_owned()
}
