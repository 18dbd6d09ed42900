//! The loop: what happens goes into the state machine, what it wants is carried out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::clock::{self, Time};
use common::control::ToWorker;
use common::ids::NodeName;
use common::spawn;
use tokio::sync::{mpsc, oneshot, watch};

use super::control::{self, Heard};
use super::prepare::Ready;
use super::signals::Signals;
use super::{Error, report};
use crate::cli;
use crate::console::{self, First};
use crate::job::{Config, ConnId, Effect, Event, Input, Job};
use crate::journal::Entry;
use crate::launcher;
use crate::progress::Display;
use crate::summary::{Summary, Times};

const TICK: Duration = Duration::from_millis(50);
const RATE_EVERY: Duration = Duration::from_secs(5);
/// How long workers have to exit when they are told to, and again when they are killed.
const EXIT_WITHIN: Duration = Duration::from_secs(2);
/// How long the output may still be printed when the job has failed.
const LAST_OUTPUT: Duration = Duration::from_secs(5);

struct Run {
    ready: Ready,
    job: Job,
    conns: BTreeMap<ConnId, mpsc::UnboundedSender<ToWorker>>,
    began: Time,
    /// When the last stage first reported output: for runs that print nothing.
    first_report_us: Option<u64>,
    outcome: Option<Result<(), String>>,
}

pub async fn run(mut ready: Ready, mut signals: Signals) -> Result<(), Error> {
    let config = Config {
        lease: ready.cluster.job_lease(),
        max_restarts: ready.request.max_restarts,
    };
    let nodes: Vec<NodeName> = ready.cluster.nodes.iter().map(|n| n.name.clone()).collect();
    let job = Job::new(ready.plan.clone(), config, nodes, ready.failed.clone());
    report::run_start(&ready.plan, &ready.node, ready.addr);

    let (tell, mut heard) = mpsc::unbounded_channel();
    let listener = take_listener(&mut ready)?;
    let _control = control::listen(listener, ready.me.clone(), ready.plan.job.clone(), tell);
    let (_none, launched) = mpsc::unbounded_channel();
    let mut launched = std::mem::replace(&mut ready.launched, launched);
    let mut membership = ready.follower.watch();
    let mut printing = Printing::start(&ready);
    let now = clock::now();
    let mut display = Display::new(ready.screen.clone(), ready.request.progress, &job, now);
    let mut run = Run {
        ready,
        job,
        conns: BTreeMap::new(),
        began: now,
        first_report_us: None,
        outcome: None,
    };
    run.give(Input::Begin);

    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next_rate = run.began + RATE_EVERY;
    while run.outcome.is_none() {
        tokio::select! {
            // What was said before a tick counts before it: a busy leader must not take its own delay for silence.
            biased;
            Some(heard) = heard.recv() => run.heard(heard),
            Some(event) = launched.recv() => run.launched(event),
            Ok(()) = membership.changed() => {
                let view = membership.borrow_and_update().clone();
                run.members(&view);
            }
            name = signals.next() => run.give(Input::Stop { why: format!("stopped by {name}") }),
            _ = tick.tick() => {
                run.give(Input::Tick);
                let now = clock::now();
                display.show(&run.job, now);
                if now >= next_rate {
                    next_rate = now + RATE_EVERY;
                    report::rates(&run.job);
                }
            }
        }
    }
    let outcome = run.outcome.clone().unwrap_or(Ok(()));
    report::rates(&run.job);

    // Workers go, the rest of the output is printed, the journal is closed: all at once, all bounded.
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

/// The listener can be taken once.
fn take_listener(ready: &mut Ready) -> Result<tokio::net::TcpListener, Error> {
    ready
        .listener
        .take()
        .ok_or_else(|| Error::Cannot("the control port is served already".into()))
}

impl Run {
    fn give(&mut self, input: Input) {
        let mut effects = vec![];
        self.job.handle(clock::now(), input, &mut effects);
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Launch { task, epoch, node } => {
                self.ready.journal.write(Entry::Launch {
                    task,
                    epoch,
                    node: node.clone(),
                });
                let ready = &mut self.ready;
                // Nodes come from the cluster file.
                if let Ok(node) = ready.cluster.node(node.as_str()) {
                    let order = launcher::order(
                        &ready.cluster,
                        node,
                        &ready.plan.job,
                        task,
                        epoch,
                        ready.addr,
                        &ready.own_folder,
                    );
                    ready.launcher.launch(order);
                }
            }
            Effect::Send { conn, message } => {
                if let Some(out) = self.conns.get(&conn) {
                    // One that is closing will be heard of.
                    let _ = out.send(message);
                }
            }
            Effect::Close { conn } => drop(self.conns.remove(&conn)),
            Effect::Kill {
                task,
                epoch,
                node,
                pid,
            } => self.ready.launcher.kill(task, epoch, node, pid),
            Effect::Event(event) => {
                report::event(self.job.plan(), &event);
                if let Event::End { task, epoch, .. } = event {
                    self.ready.journal.write(Entry::Done { task, epoch });
                }
            }
            Effect::Done => self.outcome = Some(Ok(())),
            Effect::Failed { why } => self.outcome = Some(Err(why)),
        }
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Registered {
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
            Heard::Message { conn, message } => {
                self.give(Input::Message { conn, message });
                if self.first_report_us.is_none() {
                    let last = self.job.plan().stages.len() - 1;
                    let mut tasks = self.job.tasks().filter(|t| usize::from(t.id.stage) == last);
                    self.first_report_us = tasks.any(|t| t.totals.tuples_out > 0).then(clock::unix_micros);
                }
            }
            Heard::Closed { conn } => {
                self.conns.remove(&conn);
                self.give(Input::ConnClosed { conn });
            }
            Heard::Asked { request, reply } => {
                let ready = &self.ready;
                let answer = report::answer(
                    request,
                    &self.job,
                    &ready.cluster,
                    &ready.node,
                    self.began,
                    clock::now(),
                );
                // Who asked may have gone.
                let _ = reply.send(answer);
            }
        }
    }

    fn launched(&mut self, event: launcher::Event) {
        match event {
            launcher::Event::Exited {
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
            launcher::Event::Failed { task, epoch, why } => {
                self.give(Input::LaunchFailed { task, epoch, why })
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
                memberd::State::Failed | memberd::State::Left => self.give(Input::NodeFailed(name)),
                memberd::State::Alive => self.give(Input::NodeAlive(name)),
                memberd::State::Suspect => {}
            }
        }
    }

    /// Waits until all processes have ended and all output is printed; kills what does not end by itself.
    async fn finish(
        &mut self,
        heard: &mut mpsc::UnboundedReceiver<Heard>,
        launched: &mut mpsc::UnboundedReceiver<launcher::Event>,
        signals: &mut Signals,
        printing: &mut Printing,
        ok: bool,
    ) -> Result<(), console::Error> {
        let began = clock::now();
        let mut killed = false;
        let mut printed: Option<Result<(), console::Error>> = None;
        let end = {
            let (client, dest) = (self.ready.client.clone(), self.ready.plan.dest.clone());
            spawn_stat(client, dest)
        };
        let mut end = Some(end);
        let mut tick = tokio::time::interval(TICK);
        loop {
            let (waited, left) = (clock::now().since(began), self.job.left());
            if left.is_empty() || waited > 2 * EXIT_WITHIN {
                match (&printed, ok) {
                    (Some(_), _) => break,
                    (None, false) if waited > LAST_OUTPUT => break,
                    _ => {}
                }
            }
            if !killed && waited > EXIT_WITHIN {
                killed = true;
                for (task, epoch, node, pid) in left {
                    self.ready.launcher.kill(task, epoch, node, pid.unwrap_or(0));
                }
            }
            tokio::select! {
                biased;
                Some(heard) = heard.recv() => self.heard(heard),
                Some(event) = launched.recv() => self.launched(event),
                len = async { match end.as_mut() { Some((_, len)) => len.await, None => std::future::pending().await } } => {
                    end = None;
                    match len {
                        Ok(Ok(len)) => printing.end_at(len),
                        Ok(Err(error)) => printed = printed.or(Some(Err(error.into()))),
                        Err(_) => printed = printed.or(Some(Ok(()))),
                    }
                }
                result = printing.done(), if printed.is_none() => printed = Some(result),
                // The second Ctrl-C does not wait for the output.
                _ = signals.next() => printed = printed.or(Some(Ok(()))),
                _ = tick.tick() => {}
            }
        }
        printed.unwrap_or(Ok(()))
    }

    async fn end(
        mut self,
        printing: &Printing,
        outcome: Result<(), String>,
        printed: Result<(), console::Error>,
    ) -> Result<(), Error> {
        let first_output_us = printing.first.at_us().or(self.first_report_us);
        let summary = Summary::of(
            &self.job,
            Times {
                started_us: self.ready.started_us,
                first_output_us,
            },
        );
        report::run_end(&self.job, &summary, &outcome);
        let (ok, why) = (outcome.is_ok(), outcome.clone().err().unwrap_or_default());
        self.ready.journal.write(Entry::End { ok, why });
        let Ready {
            mut journal,
            launcher,
            request,
            plan,
            log,
            ..
        } = self.ready;
        let flush = tokio::time::timeout(EXIT_WITHIN, journal.flush());
        let (flushed, ()) = tokio::join!(flush, launcher.close());
        if let Ok(Err(error)) = flushed {
            tracing::warn!(job = %plan.job, error = %error, "JOURNAL_FAILED");
        }
        if let Some(file) = &request.summary {
            let text = serde_json::to_string_pretty(&summary).map_err(|e| Error::Cannot(e.to_string()))?;
            std::fs::write(file, text + "\n").map_err(|source| Error::Io {
                what: format!("cannot write {}", file.display()),
                source,
            })?;
        }
        drop(log);
        outcome.map_err(|why| Error::Job {
            job: plan.job.clone(),
            why,
        })?;
        printed.map_err(|e| Error::Console {
            job: plan.job,
            dest: plan.dest,
            why: e.to_string(),
        })
    }
}

type Length = oneshot::Receiver<Result<u64, hydfs::client::Error>>;

fn spawn_stat(client: hydfs::client::Client, dest: String) -> (spawn::Guard, Length) {
    let (tell, heard) = oneshot::channel();
    let guard = spawn::guarded("output-length", async move {
        let _ = tell.send(client.stat(&dest).await.map(|s| s.len));
        Ok::<(), hydfs::client::Error>(())
    });
    (guard, heard)
}

/// The output on its way to standard output, beside everything else.
struct Printing {
    first: First,
    end: watch::Sender<Option<u64>>,
    result: oneshot::Receiver<Result<(), console::Error>>,
    _task: Option<spawn::Guard>,
}

impl Printing {
    fn start(ready: &Ready) -> Self {
        let first = First::default();
        let (end, receiver) = watch::channel(None);
        let (tell, result) = oneshot::channel();
        if ready.request.console == cli::Console::None {
            let _ = tell.send(Ok(()));
            return Self {
                first,
                end,
                result,
                _task: None,
            };
        }
        let file = console::File {
            client: ready.client.clone(),
            name: ready.plan.dest.clone(),
        };
        let (from, noted, all) = (
            ready.dest_from,
            first.clone(),
            ready.request.console == cli::Console::All,
        );
        let out = console::Stdout::new(ready.screen.clone());
        let task = spawn::guarded("console", async move {
            let file = Arc::new(file);
            let printed = if all {
                console::copy_all(&*file, from, out, receiver, noted).await
            } else {
                console::sample(&*file, from, out, receiver, noted, Duration::from_secs(1)).await
            };
            let _ = tell.send(printed);
            Ok::<(), console::Error>(())
        });
        Self {
            first,
            end,
            result,
            _task: Some(task),
        }
    }

    fn end_at(&self, len: u64) {
        // Nobody listens any more when standard output was closed.
        let _ = self.end.send(Some(len));
    }

    async fn done(&mut self) -> Result<(), console::Error> {
        (&mut self.result).await.unwrap_or(Ok(()))
    }
}
