//! What goes into a job, and what comes out.

use std::net::SocketAddr;

use common::exit::Exit;
use common::ids::{Epoch, NodeName, TaskId};
use protocol::control::{ToLeader, ToWorker, Unit};

use crate::plan::{Change, SourceFile};
use crate::record::Ticket;

/// A control connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(pub u64);

#[derive(Debug, Clone)]
pub enum Input {
    /// Start the tasks where the plan says.
    Begin,
    Registered {
        conn: ConnId,
        task: TaskId,
        epoch: Epoch,
        pid: u32,
        addr: SocketAddr,
    },
    Message {
        conn: ConnId,
        message: ToLeader,
    },
    ConnClosed {
        conn: ConnId,
    },
    Exited {
        task: TaskId,
        epoch: Epoch,
        exit: Exit,
        stderr: Vec<String>,
    },
    LaunchFailed {
        task: TaskId,
        epoch: Epoch,
        why: String,
    },
    NodeFailed(NodeName),
    NodeAlive(NodeName),
    /// Files that the source folder holds; for a job that follows. Those that are known are passed over.
    Files(Vec<SourceFile>),
    /// The sources' rate, lines per second over all; 0: no limit.
    SetRate(u64),
    /// Stop following: read what is there, and end.
    Drain,
    /// The change is durable. Changes are stored in the order in which they were asked for.
    Stored {
        ticket: Ticket,
    },
    /// The user gave up.
    Stop {
        why: String,
    },
    Tick,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Launch {
        task: TaskId,
        epoch: Epoch,
        node: NodeName,
    },
    Send {
        conn: ConnId,
        message: ToWorker,
    },
    Close {
        conn: ConnId,
    },
    /// Best effort.
    Kill {
        task: TaskId,
        epoch: Epoch,
        node: NodeName,
        pid: u32,
    },
    /// Put this into the journal, and say when it is durable.
    Store {
        ticket: Ticket,
        change: Change,
    },
    Event(JobEvent),
    Done,
    Failed {
        why: String,
    },
}

/// What people and the journal are told.
#[derive(Debug, Clone, PartialEq)]
pub enum JobEvent {
    Start {
        task: TaskId,
        epoch: Epoch,
        node: NodeName,
        pid: u32,
        replayed: u64,
    },
    Fail {
        task: TaskId,
        epoch: Epoch,
        node: NodeName,
        pid: Option<u32>,
        why: String,
    },
    Restart {
        task: TaskId,
        epoch: Epoch,
        node: NodeName,
        from: NodeName,
        restarts: u32,
    },
    End {
        task: TaskId,
        epoch: Epoch,
        node: NodeName,
        pid: Option<u32>,
        tuples_in: u64,
        tuples_out: u64,
    },
    Exit {
        task: TaskId,
        epoch: Epoch,
        node: NodeName,
        how: String,
        stderr: Vec<String>,
    },
    NodeFail {
        node: NodeName,
        tasks: usize,
    },
    NodeBack {
        node: NodeName,
    },
    /// New input for a source task.
    Files {
        task: TaskId,
        files: usize,
        first: String,
    },
    /// One of them has the name of a file that was removed: its lines' keys begin with `label`.
    FileReplaced {
        task: TaskId,
        file: String,
        label: String,
    },
    /// A source's file has another encoding than UTF-8, in which lines are cut in the wrong places.
    WideText {
        task: TaskId,
        file: String,
        encoding: String,
    },
    Drain,
    /// The sources have another rate.
    Rate {
        rate: u64,
    },
    /// A stage gets a task, or loses one; it has `tasks` then.
    Scale {
        stage: u16,
        task: TaskId,
        up: bool,
        tasks: usize,
        why: String,
    },
    /// The change is over: nobody can fall behind it.
    Scaled {
        stage: u16,
        version: u32,
    },
    /// A task has too much, and company would not help it.
    HotTask {
        task: TaskId,
        per_s: f64,
        others: f64,
    },
    /// A tuple is set aside.
    Poison {
        task: TaskId,
        /// The newest process that failed at it.
        epoch: Epoch,
        unit: Unit,
        key: Option<String>,
        why: String,
    },
}
