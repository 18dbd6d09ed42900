//! A job that begins.

use std::time::Duration;

use common::ids::{JobName, NodeName};
use common::open_files;
use common::signals::Stop;
use hydfs::client::names::poison_file;
use hydfs::client::{Client, Error as StoreError, Stat};

use super::files::{find_inputs, make_dest, refuse_dest, ship, stat_dest};
use super::{
    Base, LeaderEndpoint, Outcome, Ready, bind, hand_over, members, opened, place_of, start_launcher,
};
use crate::cli::{IfExists, Poison, Request, Start};
use crate::driver::error::Error;
use crate::operators::{self, Located, Resolved};
use job::journal::{self, Journal};
use job::machine::{Config, Job};
use job::plan::{self, Input, Output, Plan, Stage, place, slices};
use job::record::Entry;

const TIDY_WITHIN: Duration = Duration::from_secs(2);

pub(super) async fn prepare(
    request: Request,
    start: Start,
    started_us: u64,
    stop: &Stop,
) -> Result<Outcome, Error> {
    let located = start
        .stages
        .iter()
        .enumerate()
        .map(|(i, stage)| operators::locate(i + 1, stage));
    let located: Vec<Located> = located.collect::<Result<_, _>>()?;
    let job = match &start.job {
        Some(job) => job.clone(),
        None => job_name()?,
    };
    let base = Base::new(request, &job, None)?;
    let client = &base.client;
    let open = !start.dry_run && base.request.on.is_none();
    let (launcher, hosts) = start_launcher(&base, &job, open)?;

    let waiting = |word: &str| base.screen.say(&format!("leader: {word}"));
    let looked_up = async {
        tokio::try_join!(
            find_inputs(client, &start),
            stat_dest(client, &start),
            resolve_all(located, &start, &waiting),
            members(&base.follower, &base.node.name),
        )
    };
    let (inputs, dest, resolved, alive) = stop.unless(looked_up).await.map_err(Error::Stopped)??;
    if start.scaling.is_some_and(|scaling| scaling.stateful) {
        operators::all_move_state(&resolved).map_err(Error::Usage)?;
    }
    resolved
        .iter()
        .flat_map(|r| &r.notes)
        .for_each(|note| base.screen.say(note));
    let nodes = place_of(&base.cluster, &alive);
    let mut plan = planned(&start, job, &inputs, &resolved, dest, &nodes)?;
    plan.standbys = start.standbys.unwrap_or(u16::from(base.cluster.nodes.len() > 1));
    if start.dry_run {
        return Ok(Outcome::DryRun(plan.describe()));
    }
    check_open_files(plan.nodes.len(), nodes.len(), open_files::limit()).map_err(Error::Cannot)?;
    let elsewhere = match &base.request.on {
        Some(on) => Some(hand_over::choose(&base, on, &nodes).await?),
        None => None,
    };

    // From here on something is left behind that has to be removed when it comes to nothing.
    let mut journal = create_journal(client, &plan).await?;
    let begun = async {
        let bound = async {
            match elsewhere {
                Some(_) => Ok(None),
                None => bind(&base.cluster, &base.node).await.map(Some),
            }
        };
        let written = async {
            // A plan that is stored can be carried out by anybody.
            ship(client, &resolved, stop).await?;
            journal.write(Entry::Plan(Box::new(plan.clone())));
            Ok(journal.flush().await?)
        };
        let ((), gone, listener) = tokio::try_join!(written, opened(hosts, &nodes), bound)?;
        make_dest(client, &plan).await.map_err(|e| match e {
            // Another job of the same destination was quicker.
            StoreError::Exists { .. } => refuse_dest(&start),
            other => other.into(),
        })?;
        if let Some(node) = &elsewhere {
            hand_over::start(&base, &plan.job, node).await?;
        }
        Ok((listener, gone))
    };
    let outcome = {
        let mut begun = std::pin::pin!(begun);
        match stop.unless(&mut begun).await {
            Ok(outcome) => outcome,
            Err(asked) => {
                // Something may be on its way to be made, and must be there to be removed.
                let _ = tokio::time::timeout(TIDY_WITHIN, begun).await;
                Err(Error::Stopped(asked))
            }
        }
    };
    let (listener, gone) = match outcome {
        Ok(begun) => begun,
        Err(error) => {
            // Nothing was started: the job's name stays free. One that cannot be removed is an empty job's.
            let _ = tokio::time::timeout(TIDY_WITHIN, unmake(client, &plan)).await;
            return Err(error);
        }
    };
    let Some(listener) = listener else {
        launcher.0.close().await;
        return Ok(Outcome::HandedOver(plan.job));
    };
    let config = Config {
        lease: base.cluster.job_lease(),
        max_restarts: plan.max_restarts,
    };
    let failed = base.failed(&(&alive - &gone));
    let job = Job::new(plan, config, base.all_nodes(), failed.clone());
    let place = LeaderEndpoint { listener, launcher };
    let ready = Ready::new(base, started_us, job, journal, place, failed)?;
    Ok(Outcome::Ready(Box::new(ready)))
}

/// Removes what was made for a job that does not begin, and nothing of others'.
async fn unmake(client: &Client, plan: &Plan) {
    if let Output::Made { nonce, .. } = plan.output {
        let _ = client.remove_made(&plan.dest, nonce).await;
    }
    let _ = client.remove(&journal::name(&plan.job)).await;
}

/// Takes the job's name.
async fn create_journal(client: &Client, plan: &Plan) -> Result<Journal, Error> {
    Journal::create(client, &plan.job).await.map_err(|e| match e {
        StoreError::Exists { .. } => Error::Usage(crate::cli::Error::Option {
            option: "--job",
            what: format!(
                "a job named {0} exists (its journal is {1}); choose another name, or take it up if its leader is gone: leader --resume {0}",
                plan.job,
                journal::name(&plan.job)
            ),
        }),
        other => Error::Storage(other),
    })
}

/// `20261121-054000-kqz`: sorts by time, and two in one second differ.
fn job_name() -> Result<JobName, Error> {
    let digits: String = common::telemetry::timestamp()
        .chars()
        .take(19)
        .filter(char::is_ascii_digit)
        .collect();
    let (day, time) = digits.split_at(8.min(digits.len()));
    let letters: String = random()?[..4].iter().map(|b| char::from(b'a' + b % 26)).collect();
    JobName::new(format!("{day}-{time}-{letters}")).map_err(|e| Error::Cannot(e.to_string()))
}

fn random() -> Result<[u8; 8], Error> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| Error::Cannot(format!("no random numbers: {e}")))?;
    Ok(random)
}

/// A job that runs out of descriptors half way would only say that its tasks do not answer. `limit`: of this program.
fn check_open_files(tasks: usize, nodes: usize, limit: Option<u64>) -> Result<(), String> {
    // Each task has a connection, and one of a predecessor's that is not over yet; each node has an SSH session and a storage
    // daemon. The rest is for logs, sockets, the journal and the pages of the job.
    let needed = (2 * tasks + 8 * nodes + 40) as u64;
    match limit {
        Some(limit) if limit < needed => Err(format!(
            "this job of {tasks} tasks on {nodes} nodes needs up to {needed} open files, and the leader may have {limit}; raise the hard \
             limit (ulimit -Hn, or LimitNOFILE= of a service), or take fewer tasks"
        )),
        _ => Ok(()),
    }
}

async fn resolve_all(
    located: Vec<Located>,
    start: &Start,
    waiting: &impl Fn(&str),
) -> Result<Vec<Resolved>, Error> {
    let (exact, productions, within) = (start.exactly_once, start.productions, start.describe_within);
    let mut resolved = vec![];
    for (i, located) in located.into_iter().enumerate() {
        resolved.push(operators::resolve(i + 1, located, exact, productions, within, waiting).await?);
    }
    Ok(resolved)
}

fn planned(
    start: &Start,
    job: JobName,
    inputs: &[Input],
    resolved: &[Resolved],
    dest: Option<Stat>,
    nodes: &[NodeName],
) -> Result<Plan, Error> {
    let most = start.tasks_per_stage;
    let sources = match start.follow {
        true => plan::follow(inputs, most),
        false => slices(inputs, most),
    };
    let mut stages = vec![Stage {
        op: None,
        tasks: sources.len() as u16,
    }];
    stages.extend(resolved.iter().map(|r| Stage {
        op: Some(r.spec.clone()),
        tasks: start.tasks_per_stage,
    }));
    let sizes: Vec<u16> = stages.iter().map(|s| s.tasks).collect();
    let output = match (dest, start.if_exists) {
        (Some(stat), IfExists::Append) => Output::Found {
            from: stat.len,
            creation: Some(stat.creation),
        },
        (_, if_exists) => Output::Made {
            nonce: u64::from_be_bytes(random()?),
            replace: if_exists == IfExists::Overwrite,
        },
    };
    Ok(Plan {
        job,
        exactly_once: start.exactly_once,
        format: start.format,
        dest: start.dest.clone(),
        op_timeout_ms: start.op_timeout.as_millis() as u64,
        rate: start.rate,
        stages,
        sources,
        nodes: place(&sizes, nodes),
        src: start.src.clone(),
        output,
        max_restarts: start.max_restarts,
        poison: (start.poison == Poison::Skip).then(|| poison_file(&start.dest)),
        follow: start.follow,
        keep_logs: start.keep_logs,
        drain: false,
        skips: Default::default(),
        scaling: start.scaling,
        routing: Default::default(),
        standbys: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_open_files_are_refused_with_both_numbers() {
        assert_eq!(check_open_files(24, 3, None), Ok(()));
        assert_eq!(check_open_files(24, 3, Some(1024)), Ok(()));
        let why = check_open_files(24, 3, Some(40)).unwrap_err();
        assert!(
            why.contains("up to 112 open files") && why.contains("may have 40"),
            "{why}"
        );
    }
}
