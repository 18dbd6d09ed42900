//! What goes into a task's state machine, and what it wants done.

use bytes::Bytes;
use common::ids::{Epoch, JobName, TaskId};
use protocol::batch::Batch;
use protocol::control::Route;
use protocol::task_log::SourceRun;

use super::Error;
use super::inbox::Item;
use crate::wire::{Open, Standing};

/// Which of the connections that senders have opened; whoever accepts them numbers them.
pub type ConnectionId = u64;

/// What has happened. Offsets of files count what this task has written there, its earlier processes included.
#[derive(Debug)]
pub enum Input {
    /// The leader has changed the next stage's routing. A version that is known already is passed over.
    RoutingChanged(Route),
    /// The leader has added upstream tasks: this one does not finish before they have ended.
    SendersAdded(Vec<TaskId>),
    /// A sender asks where to begin.
    SenderConnected {
        connection: ConnectionId,
        open: Open,
    },
    FrameReceived {
        connection: ConnectionId,
        from: TaskId,
        item: Item,
    },
    /// A receiver has said what it has: the output's chunks may leave.
    ReceiverConnected {
        output: usize,
        standing: Standing,
    },
    ReceiverLost {
        output: usize,
    },
    /// A receiver may be restarted, and will not ask for units below `upto`.
    ReceiverAcknowledged {
        output: usize,
        upto: u64,
    },
    /// A receiver does not hear this process: it knows a newer one of its task, or needs what nobody has any more.
    ReceiverRefused {
        to: TaskId,
        why: String,
    },
    /// The log is durable up to this offset.
    LogStored {
        upto: u64,
    },
    /// The file behind the output is durable up to this offset.
    OutputStored {
        output: usize,
        upto: u64,
    },
    /// The snapshot file is durable up to this offset.
    SnapshotStored {
        upto: u64,
    },
    /// The unit of work at hand is done, and its outputs are emitted.
    WorkDone {
        bytes_in: u64,
    },
    /// Lines were read and emitted: the answer to [`Work::Source`].
    SourceRead {
        run: SourceRun,
        bytes_in: u64,
    },
    /// There is nothing to read now: the answer to `Work::Source(None)`.
    SourceDry,
    /// The rate allows nothing to be read now: the answer to `Work::Source(None)`.
    SourcePaced,
    /// There is nothing left to read: the answer to `Work::Source(None)`.
    SourceEnded,
    /// The answer to [`Work::Snapshot`]. `round_ended`: all of the state has been written since the last time that it had.
    SnapshotTaken {
        state: Vec<u8>,
        round_ended: bool,
    },
}

/// What the driver is to do, in this order.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Tell a sender where to begin.
    Accept {
        connection: ConnectionId,
        standing: Standing,
    },
    /// Tell a sender why it is not heard, and close the connection.
    Refuse {
        connection: ConnectionId,
        from: TaskId,
        epoch: Epoch,
        refusal: Refusal,
    },
    /// Units below `upto` are covered by a durable checkpoint: the sender may forget them.
    Acknowledge {
        connection: ConnectionId,
        upto: u64,
    },
    /// Close a sender's connection. `gap`: something is missing on it; else a newer one has replaced it.
    Disconnect {
        connection: ConnectionId,
        from: TaskId,
        gap: bool,
    },
    /// Send a frame to the receiver behind the output.
    SendFrame {
        output: usize,
        frame: Bytes,
    },
    AppendLog {
        records: Vec<u8>,
    },
    /// Append to the file behind the output.
    AppendOutput {
        output: usize,
        bytes: Bytes,
    },
    AppendSnapshot {
        state: Vec<u8>,
    },
    /// Nobody will ever need what the log holds below this offset.
    TrimLog {
        upto: u64,
    },
    /// The same of the snapshot file.
    TrimSnapshots {
        upto: u64,
    },
    /// Tuples are durable in the file behind the output. `born_us`: when the source read the oldest line behind them.
    Delivered {
        output: usize,
        tuples: u64,
        born_us: u64,
    },
    /// Outputs go by this version from here on: there may be new receivers.
    Routed(Route),
    /// The first outputs of this process have left.
    FirstOutput {
        tuples: u64,
    },
    /// Something that the leader should know before the next beat.
    Report,
    /// All has been put out: what is appended now need not be gathered.
    NothingFollows,
    /// All is consumed, emitted, acknowledged and noted: the process may end.
    Finished,
    /// Another process has this identity now: end.
    Fenced {
        why: String,
    },
}

/// Why a sender is not heard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this is {task} of job {job}")]
    OtherTask { job: JobName, task: TaskId },
    #[error("{from} runs as epoch {newest} now")]
    OlderEpoch { from: TaskId, newest: Epoch },
    #[error(transparent)]
    Lost(Error),
}

/// A unit of work. Each is answered by one input before the next is asked for.
#[derive(Debug, PartialEq)]
pub enum Work {
    /// Give these tuples to the operator, as one batch. Those that are to be set aside are not among them. Answer: `WorkDone`.
    Tuples {
        from: TaskId,
        /// The number of the first tuple that was consumed: see [`super::Task::unit`].
        start: u64,
        born_us: u64,
        batch: Batch,
    },
    /// Read lines: exactly this run when replaying, else what the driver likes from the source's position on. Answer:
    /// `SourceRead`, `SourceDry`, `SourcePaced` or `SourceEnded`.
    Source(Option<SourceRun>),
    /// Take in keys with their state. Answer: `WorkDone`.
    Adopt { state: Batch },
    /// Hand over the keys that are others' by this version of the stage's own routing ([`super::Task::leaving`],
    /// [`super::Task::handover`]). Answer: `WorkDone`.
    HandOver { version: u32, to: Vec<TaskId> },
    /// Let the operator finish; end marks follow. Answer: `WorkDone`.
    Finish,
    /// Write down what has changed of the operator's state, and this many bytes of the rest. Answer: `SnapshotTaken`.
    Snapshot { rewrite: usize },
    /// Nothing to run: what stands next is only to be noted. Answer: `WorkDone`.
    Note,
}
