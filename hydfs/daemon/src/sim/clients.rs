//! Clients: processes that fence and append, their zombies, one that creates and removes, and one that looks up.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use common::clock::Time;
use common::ids::Epoch;
use rand::RngExt;

use super::oracle::{self, record};
use super::world::{self, World, ms};
use crate::replica::{Answer, Input, Refused, Request, Writer};
use hydfs::content::{ClientId, FileName};

pub enum ClientEvent {
    /// A request arrives at a node.
    Ask {
        conn: u64,
        node: usize,
        life: u64,
    },
    Reply {
        conn: u64,
        result: Result<Answer, Refused>,
    },
    Wake {
        process: usize,
    },
    NewFile,
}

/// A process of a client.
pub struct Process {
    pub file: FileName,
    pub client: ClientId,
    pub epoch: Epoch,
    pub nonce: u64,
    pub state: State,
    /// What it has to append and is not acknowledged, by offset in its stream.
    pub records: BTreeMap<u64, Bytes>,
    acked: u64,
    sent: u64,
    end: u64,
    target: usize,
    last: Time,
    deadline: Option<Time>,
    under_way: Vec<u64>,
    /// Of the one that creates and removes: what its file is to be.
    pub script: Option<Script>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Create,
    Fence,
    Append,
    Remove,
    Dead,
}

#[derive(Default)]
pub struct Script {
    /// Removed (or not yet created), with certainty.
    pub absent: bool,
}

/// A request that was sent. `at_least`: how long the file must be said to be.
pub struct Sent {
    process: Option<usize>,
    request: Request,
    at_least: u64,
    /// What the file had been trimmed to, or of a trim, what was committed when it came to the one who answers.
    base: u64,
    /// Another process had taken the stream over when a trim came to the one who answers.
    stale: bool,
    cancelled: bool,
}

/// Never removed: what is known of it counts to the end.
fn file_is_kept(file: &FileName) -> bool {
    file.as_str().starts_with("jobs/")
}

#[derive(Default)]
pub struct Clients {
    pub processes: Vec<Process>,
    sent: BTreeMap<u64, Sent>,
    conns: u64,
    epochs: BTreeMap<(FileName, ClientId), u64>,
    pub files: Vec<FileName>,
}

impl Clients {
    pub fn start(w: &mut World) {
        let files = w.rng.random_range(2..6);
        for i in 0..files {
            let file = FileName::new(format!("jobs/f{i}")).unwrap();
            w.clients.files.push(file.clone());
            for c in 0..w.rng.random_range(1..4) {
                Self::add(w, file.clone(), ClientId(c), 1, None);
            }
        }
        for i in 0..2 {
            Self::add(
                w,
                FileName::new(format!("churn{i}")).unwrap(),
                ClientId(9),
                1,
                Some(Script { absent: true }),
            );
        }
        w.after(100, 200, world::WorldEvent::Client(ClientEvent::NewFile));
    }

    fn add(w: &mut World, file: FileName, client: ClientId, epoch: u64, script: Option<Script>) {
        let process = w.clients.processes.len();
        w.clients.epochs.insert((file.clone(), client), epoch);
        let nonce = w.rng.random();
        let state = if script.is_some() {
            State::Create
        } else {
            State::Fence
        };
        let target = w.rng.random_range(0..w.n);
        w.clients.processes.push(Process {
            file,
            client,
            epoch: Epoch(epoch),
            nonce,
            state,
            records: BTreeMap::new(),
            acked: 0,
            sent: 0,
            end: 0,
            target,
            last: Time::ZERO,
            deadline: None,
            under_way: Vec::new(),
            script,
        });
        w.after(10, 500, world::WorldEvent::Client(ClientEvent::Wake { process }));
    }

    /// A client is restarted; its old process goes on as a zombie. Sometimes another one claims the very same epoch.
    pub fn new_process(w: &mut World) {
        let keys: Vec<_> = w
            .clients
            .epochs
            .iter()
            .filter(|((f, _), _)| file_is_kept(f))
            .collect();
        let ((file, client), epoch) = keys[w.rng.random_range(0..keys.len())];
        let (file, client, epoch) = (file.clone(), *client, *epoch);
        let epoch = epoch + u64::from(w.rng.random_bool(0.8));
        Self::add(w, file, client, epoch, None);
    }

    pub fn happen(w: &mut World, event: ClientEvent) {
        match event {
            ClientEvent::Ask { conn, node, life } => {
                // A removal may come late, and must not hit what was made in the meantime; so may a trim.
                let late = |s: &Sent| matches!(s.request, Request::Remove { .. } | Request::Trim { .. });
                let Some(sent) = w.clients.sent.get(&conn).filter(|s| !s.cancelled || late(s)) else {
                    return;
                };
                let request = sent.request.clone();
                if let Request::Trim { file, base, by, .. } = &request {
                    let Some(committed) = oracle::seen_up_to(w, node, file, *base) else {
                        return;
                    };
                    let stale = by.is_some_and(|by| w.oracle.is_replaced(file, by.client, by.epoch));
                    if let Some(sent) = w.clients.sent.get_mut(&conn) {
                        (sent.base, sent.stale) = (committed, stale);
                    }
                }
                if w.nodes[node].life == life {
                    w.input(
                        node,
                        Input::Client {
                            conn,
                            id: conn,
                            request,
                        },
                    );
                }
            }
            ClientEvent::Reply { conn, result } => Self::reply(w, conn, result),
            ClientEvent::Wake { process } => Self::wake(w, process),
            ClientEvent::NewFile => {
                // A lookup of something that is never removed.
                let files = w.clients.files.len();
                let file = w.clients.files[w.rng.random_range(0..files)].clone();
                let at_least = w.oracle.acked_bytes(&file);
                let node = w.rng.random_range(0..w.n);
                Self::send(
                    w,
                    None,
                    node,
                    Request::Stat { file, of: None },
                    at_least,
                    Time::ZERO,
                );
                w.after(30, 200, world::WorldEvent::Client(ClientEvent::NewFile));
            }
        }
    }

    fn send(
        w: &mut World,
        process: Option<usize>,
        node: usize,
        request: Request,
        at_least: u64,
        last: Time,
    ) -> Time {
        w.clients.conns += 1;
        let conn = w.clients.conns;
        let at = (w.now + Duration::from_micros(w.rng.random_range(50..1500))).max(last);
        if !w.rng.random_bool(0.01) {
            let life = w.nodes[node].life;
            w.at(
                at,
                world::WorldEvent::Client(ClientEvent::Ask { conn, node, life }),
            );
        }
        let base = request.file().map_or(0, |file| w.oracle.trimmed_to(file));
        w.clients.sent.insert(
            conn,
            Sent {
                process,
                request,
                at_least,
                base,
                stale: false,
                cancelled: false,
            },
        );
        if let Some(process) = process {
            w.clients.processes[process].under_way.push(conn);
        }
        at
    }

    fn wake(w: &mut World, process: usize) {
        if w.clients.processes[process].state == State::Dead {
            return;
        }
        w.after(2, 60, world::WorldEvent::Client(ClientEvent::Wake { process }));
        let now = w.now;
        let p = &mut w.clients.processes[process];
        if p.deadline.is_some_and(|d| d <= now) {
            let other = w.rng.random_range(0..w.n);
            Self::again(w, process, Some(other));
        }
        let calm = w.calm;
        let p = &mut w.clients.processes[process];
        if p.state == State::Append && !calm && p.records.len() < 8 {
            let filler = w.rng.random_range(0..60);
            let bytes = record(p.client, p.epoch, p.end, filler);
            p.records.insert(p.end, bytes.clone());
            p.end += bytes.len() as u64;
        }
        let (file, client, epoch, nonce) = (p.file.clone(), p.client, p.epoch, p.nonce);
        let (target, mut last) = (p.target, p.last);
        let mut requests = Vec::new();
        match p.state {
            State::Dead => {}
            State::Append => {
                let mut todo: Vec<(u64, Bytes)> =
                    p.records.range(p.sent..).map(|(o, b)| (*o, b.clone())).collect();
                // Sometimes several go as one: a longer retry.
                if todo.len() > 1 && w.rng.random_bool(0.3) {
                    let all: Vec<u8> = todo.iter().flat_map(|(_, b)| b.to_vec()).collect();
                    todo = vec![(todo[0].0, all.into())];
                }
                let p = &mut w.clients.processes[process];
                for (offset, payload) in todo {
                    p.sent = offset + payload.len() as u64;
                    requests.push(Request::Append {
                        file: file.clone(),
                        client,
                        epoch,
                        nonce,
                        offset,
                        payload,
                    });
                }
                if p.script.is_some()
                    && p.records.is_empty()
                    && p.under_way.is_empty()
                    && w.rng.random_bool(0.2)
                    && !calm
                {
                    p.state = State::Remove;
                }
            }
            _ if !p.under_way.is_empty() => {}
            State::Create => requests.push(Request::Create { file, nonce }),
            State::Fence => {
                let create = p.script.is_none();
                requests.push(Request::Fence {
                    file,
                    of: None,
                    client,
                    epoch,
                    nonce,
                    create,
                });
            }
            State::Remove => requests.push(Request::Remove { file, nonce }),
        }
        let trims = w.clients.processes[process].state == State::Append
            && file_is_kept(&w.clients.processes[process].file);
        if trims && !calm && w.rng.random_bool(0.1) {
            let p = &w.clients.processes[process];
            let (file, by) = (p.file.clone(), Writer { client, epoch, nonce });
            let seen = w.oracle.seen_of(&file);
            // Sometimes behind what it can know to be there.
            let most = seen + if w.rng.random_bool(0.3) { 200 } else { 0 };
            let base = w.rng.random_range(seen / 2..=most);
            let by = Some(by).filter(|_| w.rng.random_bool(0.8));
            let of = None;
            let trim = Request::Trim { file, of, base, by };
            last = Self::send(w, Some(process), target, trim, seen, last);
        }
        for request in requests {
            last = Self::send(w, Some(process), target, request, 0, last);
        }
        let wait = ms(w.rng.random_range(100..900));
        let p = &mut w.clients.processes[process];
        p.last = last;
        if p.under_way.is_empty() {
            p.deadline = None;
        } else {
            p.deadline.get_or_insert(now + wait);
        }
    }

    /// What was sent and not answered goes again, elsewhere. What is still on its way of it is lost.
    fn again(w: &mut World, process: usize, target: Option<usize>) {
        let p = &mut w.clients.processes[process];
        p.deadline = None;
        p.sent = p.acked;
        p.last = w.now;
        for conn in std::mem::take(&mut p.under_way) {
            if let Some(sent) = w.clients.sent.get_mut(&conn) {
                sent.cancelled = true;
            }
        }
        if let Some(target) = target {
            p.target = target;
        }
    }

    /// A node answers. What it acknowledges is acknowledged from here on, whether the client hears it or not.
    pub fn replied(w: &mut World, node: usize, conn: u64, result: Result<Answer, Refused>) {
        let Some(sent) = w.clients.sent.get(&conn) else {
            return;
        };
        let (request, at_least, process) = (sent.request.clone(), sent.at_least, sent.process);
        let (known, stale) = (sent.base, sent.stale);
        w.log(|| format!("node {node} answers {conn}: {result:?}"));
        let wrong = match (&request, &result) {
            (
                Request::Append {
                    file,
                    client,
                    offset,
                    payload,
                    ..
                },
                Ok(Answer::Appended { length }),
            ) => {
                let wrong = w.oracle.appended(file, *client, *offset, payload, *length);
                wrong.filter(|_| process.is_some_and(|p| w.clients.processes[p].script.is_none()))
            }
            (
                Request::Fence {
                    file,
                    client,
                    epoch,
                    nonce,
                    create: true,
                    ..
                },
                Ok(Answer::Fenced { length, .. }),
            ) => w.oracle.fenced(file, *client, *epoch, *nonce, *length),
            (Request::Stat { file, .. }, Ok(Answer::Stat(info))) if info.length < at_least => Some(format!(
                "{file} is said to have {} bytes after {at_least} were acknowledged",
                info.length
            )),
            (Request::Stat { file, .. }, Ok(Answer::Stat(info))) if info.base < known => Some(format!(
                "{file} is said to begin at {} after it was trimmed to {known}",
                info.base
            )),
            (Request::Trim { file, by, .. }, Ok(Answer::Trimmed { .. })) if stale => {
                Some(format!("{file} is trimmed by {by:?}, which was replaced"))
            }
            (Request::Trim { file, base, .. }, Ok(Answer::Trimmed { base: now })) => {
                w.oracle.trimmed(file, *base, *now, known)
            }
            (Request::Trim { file, base, .. }, Err(Refused::BeyondEnd { length })) if *base <= at_least => {
                Some(format!(
                    "{file} is said to end at {length} after {at_least} bytes were read"
                ))
            }
            (Request::Stat { file, .. }, Err(Refused::NoSuchFile)) if at_least > 0 => Some(format!(
                "{file} is said not to be there after {at_least} bytes were acknowledged"
            )),
            _ => None,
        };
        if let Some(wrong) = wrong {
            w.wrong(format!("node {node}: {wrong}"));
        }
        if !w.rng.random_bool(0.02) {
            w.after(
                0,
                2,
                world::WorldEvent::Client(ClientEvent::Reply { conn, result }),
            );
        }
    }

    fn reply(w: &mut World, conn: u64, result: Result<Answer, Refused>) {
        let Some(sent) = w.clients.sent.get(&conn).filter(|s| !s.cancelled) else {
            return;
        };
        let Some(process) = sent.process else { return };
        let request = sent.request.clone();
        let other = w.rng.random_range(0..w.n);
        let again: u64 = w.rng.random();
        let p = &mut w.clients.processes[process];
        p.under_way.retain(|c| *c != conn);
        p.deadline = None;
        if p.state == State::Dead {
            return;
        }
        match (p.state, result) {
            (State::Create, Ok(Answer::Created)) => {
                p.state = State::Fence;
                p.script = Some(Script { absent: false });
            }
            (State::Fence, Ok(Answer::Fenced { length, .. })) => {
                (p.acked, p.sent, p.end, p.state) = (length, length, length, State::Append);
                p.records.clear();
            }
            (State::Append, Ok(Answer::Appended { length })) => {
                if let Request::Append { offset, payload, .. } = request {
                    debug_assert!(length >= offset + payload.len() as u64);
                    p.acked = p.acked.max(length);
                    let acked = p.acked;
                    p.records.retain(|offset, _| *offset >= acked);
                }
            }
            (_, Ok(Answer::Trimmed { .. }) | Err(Refused::BeyondEnd { .. })) => {}
            // Removed before, and the answer was lost.
            (State::Remove, Ok(Answer::Removed) | Err(Refused::NoSuchFile)) => {
                p.state = State::Create;
                p.epoch = Epoch(1);
                p.nonce = again;
                p.script = Some(Script { absent: true });
                w.oracle.removed(&p.file.clone());
            }
            (_, Err(Refused::FencedOff { .. })) => p.state = State::Dead,
            (State::Append, Err(Refused::Gap { have })) => {
                if have < p.acked {
                    let what = format!("{}: gap at {have} after {} was acknowledged", p.file, p.acked);
                    w.wrong(what);
                    return;
                }
                Self::again(w, process, None);
            }
            (
                _,
                Err(Refused::NotCoordinator {
                    coordinator: Some(node),
                }),
            ) => {
                Self::again(w, process, Some(node.0 as usize));
            }
            (
                _,
                Err(
                    Refused::NotCoordinator { .. }
                    | Refused::Unavailable { .. }
                    | Refused::Full { .. }
                    | Refused::Short { .. },
                ),
            ) => {
                Self::again(w, process, Some(other));
            }
            (state, result) => {
                let what = format!("{} ({state:?}, epoch {}) is answered {result:?}", p.file, p.epoch);
                w.wrong(what);
            }
        }
    }

    /// Why not everybody is done.
    pub fn waiting(w: &World) -> Option<String> {
        let live = w.clients.processes.iter().filter(|p| p.state != State::Dead);
        let mut waiting = live.filter(|p| !p.records.is_empty() || p.state != State::Append);
        waiting.next().map(|p| {
            format!(
                "{} of {:?} epoch {} waits in {:?}",
                p.file, p.client, p.epoch, p.state
            )
        })
    }
}
