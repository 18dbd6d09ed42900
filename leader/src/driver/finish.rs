//! The end of a run: workers go, the rest of the output is printed, the journal is closed, figures are written. All at once,
//! all bounded.

use std::time::Duration;

use common::replacement;
use common::signals::Signals;
use common::{clock, spawn};
use protocol::control::Format;
use tokio::sync::{mpsc, oneshot};

use super::control::ControlEvent;
use super::error::Error;
use super::printing::Printing;
use super::report;
use super::run::Run;
use crate::printer;
use crate::summary::{Summary, Times};
use job::journal;
use job::machine::TICK;
use job::record::Entry;
use job::standby::JournalFacts;

/// How long workers have to exit when they are told to, and again when they are killed.
const EXIT_WITHIN: Duration = Duration::from_secs(2);
/// How long the output may still be printed when the job has failed.
const LAST_OUTPUT: Duration = Duration::from_secs(5);

impl Run {
    /// Waits until all processes have ended and all output is printed; kills what does not end by itself.
    pub(super) async fn finish(
        &mut self,
        heard: &mut mpsc::Receiver<ControlEvent>,
        launched: &mut mpsc::UnboundedReceiver<launcher::ProcessEvent>,
        signals: &mut Signals,
        printing: &mut Printing,
        ok: bool,
    ) -> Result<(), printer::Error> {
        let began = clock::now();
        let mut killed = false;
        let mut printed: Option<Result<(), printer::Error>> = None;
        if self.replaced.is_some() {
            // The other leader prints all of it.
            printing.stop();
            printed = Some(Ok(()));
        }
        let end = {
            let client = self.base.client.with_patience(journal::PATIENCE);
            let dest = self.job.plan().dest.clone();
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
                    self.launcher.kill(task, epoch, node, pid.unwrap_or(0));
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
                // The next Ctrl-C does not wait for the output.
                _ = signals.next() => printed = printed.or(Some(Ok(()))),
                _ = tick.tick() => {}
            }
        }
        printed.unwrap_or(Ok(()))
    }

    pub(super) async fn end(
        mut self,
        printing: &Printing,
        outcome: Result<(), String>,
        printed: Result<(), printer::Error>,
    ) -> Result<(), Error> {
        let first_output_us = printing.first.at_us().or(self.first_report_us);
        let summary = Summary::of(
            &self.job,
            Times {
                started_us: self.started_us,
                first_output_us,
            },
        );
        report::run_end(&self.base.node.name, &summary, &outcome);
        if self.replaced.is_none() {
            let (ok, why) = (outcome.is_ok(), outcome.clone().err().unwrap_or_default());
            self.journal.write(Entry::End { ok, why });
        }
        let mut unkept = Vec::new();
        let text = serde_json::to_string_pretty(&summary).map_err(|e| Error::Cannot(e.to_string()))? + "\n";
        if let Some(file) = &self.base.request.summary {
            let kept = replacement::write(file, text.as_bytes());
            unkept.extend(kept.err().map(|e| ("its figures", file.clone(), e)));
        }
        if let Err((file, error)) = self.last_look(clock::now(), &outcome).await {
            unkept.push(("its page", file, error));
        }
        let mut whys = Vec::new();
        for (what, file, error) in unkept {
            let file = file.display();
            tracing::warn!(file = %file, error = %error, "NOT_KEPT");
            whys.push(format!("{what} could not be kept in {file}: {error}"));
        }
        let flushed = tokio::time::timeout(EXIT_WITHIN, self.journal.flush()).await;
        let fenced = matches!(flushed, Ok(Err(hydfs::client::Error::Fenced { .. })));
        // Not before: if this leader is killed now, one of them ends the job. Where it is this leader that cannot write, they
        // take the job up, or find out who has.
        let dismiss = !fenced && !self.journal_lost;
        let Self {
            base,
            job,
            launcher,
            standbys,
            mut replaced,
            ..
        } = self;
        let ended = async {
            if dismiss {
                keep_summary(&base.client, &job.plan().job, &text).await;
                standbys.end("the job has ended").await;
            }
        };
        tokio::join!(ended, launcher.close());
        let plan = job.plan();
        match flushed {
            Ok(Err(error @ hydfs::client::Error::Fenced { .. })) => {
                replaced.get_or_insert(error.to_string());
            }
            Ok(Err(error)) => tracing::warn!(error = %error, "JOURNAL_FAILED"),
            // The job's end may be stored or not: who takes it up finds it done.
            _ => {}
        }
        if let Some(why) = replaced {
            let job = plan.job.clone();
            let by = who_has(&base.client, &job).await;
            tracing::warn!(by, "RUN_REPLACED");
            return Err(Error::Replaced { job, by, why });
        }
        if job.lossy() > 0 {
            base.screen.say(&format!(
                "warning: {} lines of {} cannot be read back as the tuples that they were ({}); --format copy writes all",
                job.lossy(),
                plan.dest,
                match plan.format {
                    Format::Json => "bytes that are no UTF-8",
                    Format::Value => "newlines in values",
                    Format::Tsv | Format::Copy => "tabs in keys, or newlines",
                }
            ));
        }
        if let Some(first) = job.wide_files().first() {
            base.screen.say(&format!(
                "warning: {} of the source's files say that they are UTF-16 or UTF-32, as {first} does: their lines were cut in the wrong \
                 places; store them as UTF-8 (iconv -f UTF-16 -t UTF-8)",
                job.wide_files().len()
            ));
        }
        if let (true, Some(file)) = (job.poisoned() > 0, &plan.poison) {
            let tuples = if job.poisoned() == 1 {
                "tuple was"
            } else {
                "tuples were"
            };
            base.screen.say(&format!(
                "{} {tuples} set aside (why: POISON in the log); read with: hydfs cat {file}",
                job.poisoned()
            ));
        }
        drop(base.log);
        outcome.map_err(|why| Error::Job {
            job: plan.job.clone(),
            why,
        })?;
        printed.map_err(|e| Error::Console {
            job: plan.job.clone(),
            dest: plan.dest.clone(),
            why: e.to_string(),
        })?;
        match whys.is_empty() {
            true => Ok(()),
            false => Err(Error::Unkept {
                job: plan.job.clone(),
                why: whys.join("; "),
            }),
        }
    }
}

/// For those who ask when nobody is left who knows. The job does not depend on it.
async fn keep_summary(client: &hydfs::client::Client, job: &common::ids::JobName, text: &str) {
    let kept = journal::write_summary(client, job, text.as_bytes());
    let why = match tokio::time::timeout(EXIT_WITHIN, kept).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "storage did not answer in time".into(),
    };
    tracing::warn!(file = journal::summary_name(job), why, "NOT_KEPT");
}

/// The leader that has taken the job up, for people.
async fn who_has(client: &hydfs::client::Client, job: &common::ids::JobName) -> String {
    let read = tokio::time::timeout(EXIT_WITHIN, journal::read(client, job)).await;
    let facts = read
        .ok()
        .and_then(Result::ok)
        .map(|records| JournalFacts::of(&records));
    match facts.and_then(|facts| facts.leader) {
        Some((node, pid)) => format!("the leader on node {node}, process {pid}"),
        None => "another leader".into(),
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
