//! The loop: what happens goes into the state machine, what it wants is carried out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use common::clock::{self, Time};
use common::ids::{JobName, TaskId};
use common::signals::{Asked, Signals};
use common::spawn;
use hydfs::client::Error as StoreError;
use protocol::control::ToWorker;
use protocol::task_log::SourcePos;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::control::{self, ControlEvent};
use super::error::Error;
use super::follow::{FoundFiles, Lookout};
use super::prepare::{Base, Ready};
use super::printing::Printing;
use super::report;
use super::standbys::StandbyLinks;
use crate::progress::Display;
use api::wire::{Reply, Request};
use job::journal::Journal;
use job::machine::{ConnId, Effect, Input, Job, JobEvent, TICK};
use job::record::{Entry, Ticket};
use job::standby::StandbysInput;
use launcher::{self, Launcher};
use page::{Dashboard, Outcome};

/// How often those who watch are told.
const WATCHED_EVERY: Duration = Duration::from_millis(500);
const RATE_EVERY: Duration = Duration::from_secs(5);
/// How often it is noted where a source has arrived, at most; and for each file that it follows so much later.
const NOTE_EVERY: Duration = Duration::from_secs(1);
const NOTE_FILE: Duration = Duration::from_millis(1);

pub(super) struct Run {
    pub base: Base,
    pub started_us: u64,
    pub job: Job,
    pub journal: Journal,
    pub launcher: Box<dyn Launcher>,
    pub addr: SocketAddr,
    pub own_folder: PathBuf,
    conns: BTreeMap<ConnId, mpsc::Sender<ToWorker>>,
    lookout: Option<Lookout>,
    /// It was told to look for the last time.
    ending: bool,
    /// Where sources have arrived, as the journal has it, and when to note it again.
    arrived: BTreeMap<TaskId, (SourcePos, Time)>,
    pub began: Time,
    pub dashboard: Dashboard,
    /// Who asked for another rate, and what it was.
    rate_asked: Vec<(u64, oneshot::Sender<Reply>)>,
    /// When the last stage first reported output: for runs that print nothing.
    pub first_report_us: Option<u64>,
    pub standbys: StandbyLinks,
    /// Another leader has the job: why this one knows.
    pub replaced: Option<String>,
    /// Nothing can be written any more.
    pub journal_lost: bool,
    outcome: Option<Result<(), String>>,
}

pub async fn run(ready: Ready, mut signals: Signals) -> Result<(), Error> {
    let mut printing = Printing::start(&ready);
    let Ready {
        base,
        started_us,
        job,
        journal,
        listener,
        addr,
        launcher,
        mut launched,
        own_folder,
        standbys,
    } = ready;
    let plan = job.plan();
    report::run_start(plan, &base.node.name, addr);
    let dashboard = start_dashboard(&base, &plan.job).await;
    let (tell, mut heard) = mpsc::channel(control::HEARD);
    let mut vitals = spawn::Vitals::default();
    vitals.spawn(
        "control",
        control::listen(listener, base.me.clone(), plan.job.clone(), tell),
    );
    let lookout = (plan.follow && !plan.drain).then(|| Lookout::start(base.client.clone(), plan.src.clone()));
    let mut membership = base.follower.watch();
    let now = clock::now();
    let mut display = Display::new(base.screen.clone(), base.request.progress, &job, now);
    let mut run = Run {
        base,
        started_us,
        job,
        journal,
        launcher,
        addr,
        own_folder,
        conns: BTreeMap::new(),
        lookout,
        ending: false,
        arrived: BTreeMap::new(),
        began: now,
        dashboard,
        rate_asked: Vec::new(),
        first_report_us: None,
        standbys: StandbyLinks::new(standbys),
        replaced: None,
        journal_lost: false,
        outcome: None,
    };
    run.give(Input::Begin);

    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next_rate = run.began + RATE_EVERY;
    let mut next_look = run.began;
    while run.outcome.is_none() {
        tokio::select! {
            // What was said before a tick counts before it: a busy leader must not take its own delay for silence.
            biased;
            settled = run.journal.settled(), if !run.journal_lost => run.settled(settled),
            Some(heard) = heard.recv() => run.heard(heard),
            Some(event) = launched.recv() => run.launched(event),
            Ok(()) = membership.changed() => {
                let view = membership.borrow_and_update().clone();
                run.members(&view);
            }
            asked = signals.next() => run.signalled(asked),
            lost = vitals.lost() => run.give(Input::Stop { why: format!("the leader cannot go on: {lost}") }),
            found = found(&mut run.lookout) => run.found(found),
            _ = tick.tick() => {
                run.give(Input::Tick);
                run.give_standbys(StandbysInput::Tick);
                let now = clock::now();
                display.show(&run.job, now);
                run.note_arrivals(now);
                if now >= next_look {
                    next_look = now + WATCHED_EVERY;
                    let outcome = if run.job.is_draining() { Outcome::Draining } else { Outcome::Running };
                    run.dashboard.show(now, run.snapshot(now, outcome, ""));
                }
                if now >= next_rate {
                    next_rate = now + RATE_EVERY;
                    report::rates(&run.job);
                }
            }
        }
    }
    let outcome = run.outcome.clone().unwrap_or(Ok(()));
    report::rates(&run.job);
    let printed = run
        .finish(
            &mut heard,
            &mut launched,
            &mut signals,
            &mut printing,
            outcome.is_ok(),
        )
        .await;
    display.end();
    run.end(&printing, outcome, printed).await
}

async fn start_dashboard(base: &Base, job: &JobName) -> Dashboard {
    let addr = base.cluster.http_addr(&base.node, base.cluster.ports.http);
    let dashboard = Dashboard::start(addr, base.events.clone()).await;
    if let Some(addr) = dashboard.addr() {
        tracing::info!(node = %base.node.name, pid = std::process::id(), addr = %addr, "HTTP");
        if base.screen.is_live() {
            base.screen.say(&format!("job {job}: http://{addr}/"));
        }
    }
    dashboard
}

/// For ever when there is nothing to look out for.
async fn found(lookout: &mut Option<Lookout>) -> Option<FoundFiles> {
    match lookout {
        Some(lookout) => lookout.found().await,
        None => std::future::pending().await,
    }
}

impl Run {
    pub(super) fn give(&mut self, input: Input) {
        let mut effects = vec![];
        self.job.handle(clock::now(), input, &mut effects);
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Launch { task, epoch, node } => {
                self.journal.write(Entry::Launch {
                    task,
                    epoch,
                    node: node.clone(),
                });
                let cluster = &self.base.cluster;
                // Nodes come from the cluster file.
                if let Ok(node) = cluster.node(node.as_str()) {
                    let job = &self.job.plan().job;
                    let order = launcher::order(cluster, node, job, task, epoch, self.addr, &self.own_folder);
                    self.launcher.launch(order);
                }
            }
            Effect::Send { conn, message } => {
                // One that is closing will be heard of.
                if let Some(out) = self.conns.get(&conn)
                    && let Err(TrySendError::Full(_)) = out.try_send(message)
                {
                    // It must miss nothing. Without a connection it is replaced.
                    tracing::warn!(conn = conn.0, "WORKER_TAKES_NOTHING");
                    self.conns.remove(&conn);
                }
            }
            Effect::Close { conn } => drop(self.conns.remove(&conn)),
            Effect::Kill {
                task,
                epoch,
                node,
                pid,
            } => self.launcher.kill(task, epoch, node, pid),
            Effect::Store { ticket, change } => self.journal.change(ticket, change),
            Effect::Event(event) => {
                report::event(self.job.plan(), &event);
                if let JobEvent::End { task, epoch, .. } = event {
                    let counts = self.job.task(task).map(|t| t.totals.counts());
                    self.journal.write(Entry::Done {
                        task,
                        epoch,
                        counts: counts.unwrap_or_default(),
                        routed: self.job.task(task).map_or(0, |t| t.report.routed),
                    });
                } else if let JobEvent::Scaled { stage, version } = event {
                    self.journal.write(Entry::Scaled { stage, version });
                } else if let JobEvent::Rate { .. } = event {
                    for (was, reply) in self.rate_asked.drain(..) {
                        let _ = reply.send(Reply::RateSet { was });
                    }
                }
            }
            Effect::Done => self.outcome = Some(Ok(())),
            Effect::Failed { why } => self.outcome = Some(Err(why)),
        }
    }

    /// The journal has taken something in, or takes nothing any more. Without it no other leader could go on: so this one
    /// does not either.
    fn settled(&mut self, settled: Result<Vec<Ticket>, StoreError>) {
        let error = match settled {
            Ok(tickets) => {
                for ticket in tickets {
                    self.give(Input::Stored { ticket });
                }
                return;
            }
            Err(error) => error,
        };
        self.journal_lost = true;
        let job = self.job.plan().job.clone();
        let why = match &error {
            StoreError::Fenced { .. } => {
                self.replaced = Some(error.to_string());
                error.to_string()
            }
            _ => {
                tracing::error!(error = %error, "JOURNAL_FAILED");
                format!("its journal cannot be written: {error}; when storage is back: leader --resume {job}")
            }
        };
        self.give(Input::Stop { why });
    }

    /// Following ends with what is there now; the second time, and without following, the job ends at once.
    fn signalled(&mut self, asked: Asked) {
        // While the last look and the drain are under way, too, once more stops at once.
        if asked != Asked::Hangup && !self.ending && self.end_following() {
            self.base.screen.say(&format!(
                "{asked}: reading what is there, then ending (once more stops at once)"
            ));
        } else {
            self.give(Input::Stop {
                why: format!("stopped by {asked}"),
            });
        }
    }

    /// What is there is read yet, then the job ends. False where it follows nothing.
    fn end_following(&mut self) -> bool {
        if let Some(lookout) = &self.lookout
            && !self.ending
        {
            self.ending = true;
            lookout.end();
        }
        self.ending || self.job.is_draining()
    }

    /// A user's `stop`, from anywhere. Asked for twice it does not end at once: whoever asks may not know of the other.
    fn stop(&mut self, now: bool) -> bool {
        if !now && self.end_following() {
            return true;
        }
        self.give(Input::Stop {
            why: "stopped by `rainstormctl stop`".into(),
        });
        false
    }

    fn found(&mut self, found: Option<FoundFiles>) {
        match found {
            Some(FoundFiles::More(files)) => self.give(Input::Files(files)),
            Some(FoundFiles::Last(files)) => {
                self.give(Input::Files(files));
                self.lookout = None;
                self.give(Input::Drain);
            }
            None => self.lookout = None,
        }
    }

    /// Without exactly-once the journal says now and then how far the sources are, or who takes the job up would begin at
    /// the beginning.
    fn note_arrivals(&mut self, now: Time) {
        if self.job.plan().exactly_once {
            return;
        }
        for task in self.job.tasks() {
            let Some(place) = &task.arrived else { continue };
            let noted = self.arrived.get(&task.id);
            if noted.is_some_and(|(noted, next)| now < *next || noted == place) {
                continue;
            }
            let next = now + NOTE_EVERY + NOTE_FILE * place.growing.size().min(60_000) as u32;
            self.arrived.insert(task.id, (place.clone(), next));
            self.journal.write(Entry::Arrived {
                task: task.id,
                place: place.clone(),
            });
        }
    }

    pub(super) fn heard(&mut self, heard: ControlEvent) {
        match heard {
            ControlEvent::Registered {
                conn,
                task,
                epoch,
                pid,
                addr,
                out,
            } => {
                self.conns.insert(conn, out);
                self.give(Input::Registered {
                    conn,
                    task,
                    epoch,
                    pid,
                    addr,
                });
            }
            ControlEvent::Message { conn, message } => {
                self.give(Input::Message { conn, message });
                if self.first_report_us.is_none() {
                    let last = self.job.plan().stages.len() - 1;
                    let mut tasks = self.job.tasks().filter(|t| usize::from(t.id.stage) == last);
                    self.first_report_us = tasks.any(|t| t.totals.tuples_out > 0).then(clock::unix_micros);
                }
            }
            ControlEvent::Closed { conn } => {
                self.conns.remove(&conn);
                self.give(Input::ConnClosed { conn });
                self.standbys.remove(conn);
                self.give_standbys(StandbysInput::Closed { conn });
            }
            ControlEvent::StandbyRegistered { conn, node, pid, out } => {
                self.standbys.add(conn, out);
                self.give_standbys(StandbysInput::Registered { conn, node, pid });
            }
            ControlEvent::StandbyBeat { conn, late_ms } => {
                self.give_standbys(StandbysInput::Beat { conn, late_ms });
            }
            ControlEvent::Asked {
                request: Request::SetRate(rate),
                reply,
            } => {
                if !self.job.is_over() {
                    self.rate_asked.push((self.job.plan().rate, reply));
                    self.give(Input::SetRate(rate));
                }
            }
            ControlEvent::Asked {
                request: Request::Stop { now },
                reply,
            } => {
                let drains = self.stop(now);
                let _ = reply.send(Reply::Stopping { drains });
            }
            ControlEvent::Asked { request, reply } => {
                let base = &self.base;
                let status = report::Stands {
                    node: &base.node.name,
                    http: self.dashboard.addr(),
                    lasts: clock::now().since(self.began),
                };
                let answer = report::answer(request, &self.job, &base.cluster, status);
                // Who asked may have gone.
                let _ = reply.send(answer);
            }
        }
    }

    pub(super) fn launched(&mut self, event: launcher::ProcessEvent) {
        match event {
            launcher::ProcessEvent::Exited {
                task,
                epoch,
                exit,
                stderr,
            } => {
                self.give(Input::Exited {
                    task,
                    epoch,
                    exit,
                    stderr,
                });
            }
            launcher::ProcessEvent::Failed { task, epoch, why } => {
                self.give(Input::LaunchFailed { task, epoch, why })
            }
            launcher::ProcessEvent::StandbyEnded { node, why } => {
                self.give_standbys(StandbysInput::StartFailed { node, why });
            }
        }
    }

    /// Only `failed` and `left` say that a node is gone; a view that a memberd has lost says nothing.
    fn members(&mut self, view: &memberd::client::View) {
        if !view.connected {
            return;
        }
        for member in view.members.values() {
            let name = member.name.clone();
            match member.state {
                memberd::State::Failed | memberd::State::Left => {
                    self.give(Input::NodeFailed(name.clone()));
                    self.give_standbys(StandbysInput::NodeFailed(name));
                }
                memberd::State::Alive => {
                    self.give(Input::NodeAlive(name.clone()));
                    self.give_standbys(StandbysInput::NodeAlive(name));
                }
                memberd::State::Suspect => {}
            }
        }
    }
}
