//! Carries out words.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::cluster::Cluster;
use common::net::Identity;
use common::output::{self, complain};
use common::shown;
use common::signals::Stop;
use hydfs::client::Client;
use tokio::runtime::Runtime;

use crate::args::ConsoleCommand;
use crate::outcome::{Done, Error};
use crate::{attach, forget, grep, history, jobs, kill, log, members, rates, top, verify};

/// How long a file that is unavailable is waited for.
pub const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// The same for the words of `hydfs`, as that has it.
const FILES_PATIENCE: Duration = Duration::from_secs(30);

/// Carries out one word of a command line or a script, until it is done or a signal stops it.
pub fn carry_out(console: &Console, runtime: &Runtime, word: ConsoleCommand) -> u8 {
    tell(runtime.block_on(async {
        let (stop, _signals) = Stop::on_signals().map_err(Error::Signals)?;
        let minds_a_stop = matches!(word, ConsoleCommand::Store(_));
        let done = console.carry_out(word, &stop);
        match minds_a_stop {
            true => done.await,
            // What they hold (connections, their sockets' folder) goes when they are dropped.
            false => stop
                .unless(done)
                .await
                .unwrap_or_else(|asked| Err(Error::Stopped(asked))),
        }
    }))
}

/// Says what a word came to; returns its exit code.
pub fn tell(done: Result<Done, Error>) -> u8 {
    match done {
        Ok(done) => {
            let printed = match done.text.is_empty() {
                true => Ok(()),
                false => output::print(&format!("{}\n", done.text)),
            };
            if let Some(complaint) = done.complaint {
                complain(format_args!("rainstormctl: {complaint}"));
            }
            match printed {
                Ok(()) => done.code,
                Err(error) => tell(Err(error.into())),
            }
        }
        Err(error) => {
            // Where nothing was under way, whoever stopped it knows.
            let known = match &error {
                Error::Store(hydfs::client::Error::Stopped { what, .. }) => what.is_empty(),
                Error::Stopped(_) => true,
                _ => false,
            };
            if !known {
                complain(format_args!("rainstormctl: {error}"));
            }
            error.code()
        }
    }
}

/// What all words need.
pub struct Console {
    pub cluster: Arc<Cluster>,
    pub me: Identity,
}

impl Console {
    pub fn new(file: Option<&Path>) -> Result<Self, Error> {
        let cluster = Arc::new(Cluster::find(file)?);
        let me = Identity {
            who: format!("rainstormctl {}", std::process::id()),
            node: cluster.local_node().map(|n| n.name.clone()),
            secret: cluster.secret()?,
            security: cluster.security,
        };
        Ok(Self { cluster, me })
    }

    pub fn store(&self) -> Client {
        Client::new(self.cluster.clone(), self.me.clone()).with_patience(STORE_PATIENCE)
    }

    pub async fn carry_out(&self, word: ConsoleCommand, stop: &Stop) -> Result<Done, Error> {
        let (cluster, me) = (&*self.cluster, &self.me);
        let text = match word {
            ConsoleCommand::Host { .. } => return Err(Error::NotHere("host")),
            ConsoleCommand::Serve { .. } => return Err(Error::NotHere("serve")),
            ConsoleCommand::ListTasks { job, json } => jobs::list_tasks(cluster, me, job, json).await?,
            ConsoleCommand::Jobs { json } => jobs::jobs(cluster, me, json).await?,
            ConsoleCommand::Status { job, json } => jobs::status(cluster, me, job, json).await?,
            ConsoleCommand::History { most, json } => {
                return history::run(cluster, me, &self.store(), most, json).await;
            }
            ConsoleCommand::Forget { jobs, force } => {
                return forget::run(cluster, me, &self.store(), &jobs, force).await;
            }
            ConsoleCommand::Top { node, once } => return top::run(cluster, me, node, once).await,
            ConsoleCommand::Grep { words } => return grep::run(cluster, &words).await,
            ConsoleCommand::Rainstorm { job_words } => jobs::submit(cluster, &job_words).await?,
            ConsoleCommand::Attach {
                job,
                from_start,
                quiet,
            } => return attach::run(cluster, me, &self.store(), &job, from_start, quiet).await,
            ConsoleCommand::Stop { job, now } => jobs::stop(cluster, me, &job, now).await?,
            ConsoleCommand::Rates { job, json } => rates::rates(cluster, me, job, json).await?,
            ConsoleCommand::SetRate { job, rate } => rates::set_rate(cluster, me, job.as_str(), rate).await?,
            ConsoleCommand::KillTask { node, pid } => kill::kill_task(cluster, me, &node, pid).await?,
            ConsoleCommand::ListMem { node, json } => members::list_mem(cluster, me, node, json).await?,
            ConsoleCommand::ListSelf { node, json } => members::list_self(cluster, me, node, json).await?,
            ConsoleCommand::DisplaySuspects { node, json } => {
                members::display_suspects(cluster, me, node, json).await?
            }
            ConsoleCommand::DisplayProtocol { node } => members::display_protocol(cluster, me, node).await?,
            ConsoleCommand::Switch {
                protocol,
                suspicion,
                suspicion_time,
                node,
            } => members::switch(cluster, me, node, protocol, suspicion, suspicion_time).await?,
            ConsoleCommand::GetConfig { key, node } => members::get_config(cluster, me, node, key).await?,
            ConsoleCommand::Set { settings, node } => members::set(cluster, me, node, settings).await?,
            ConsoleCommand::Leave { node } => members::leave(cluster, me, &node).await?,
            ConsoleCommand::Log { job, task, json } => {
                return log::run(&self.store(), &job, task, json).await;
            }
            ConsoleCommand::Verify { job } => {
                return verify::run(&self.store(), &job).await.map_err(Error::unverified);
            }
            ConsoleCommand::Store(command) => {
                let client = self.store().with_patience(FILES_PATIENCE);
                let out = &mut shown::Stdout::new();
                hydfs::client::cli::run(&client, me.node.as_ref(), command, stop, out).await?;
                String::new()
            }
        };
        Ok(text.into())
    }
}
