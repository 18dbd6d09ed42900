//! A standby: waits for its leader's end, then takes the job up. What it decides is in [`job::standby`].

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use common::clock::{self, Time, unix_micros};
use common::ids::{Epoch, NodeName};
use common::net::{self, Connection, Identity, Role};
use common::secret::Secret;
use common::spawn;
use hydfs::client::Error as StoreError;
use tokio::sync::mpsc;

use super::resume::{carry_on, ready};
use super::{Base, LeaderEndpoint, Outcome, bind, members, start_launcher};
use crate::cli::{Request, Resume, StandBy};
use crate::driver::error::Error;
use job::journal::{self, Journal, OpenError};
use job::record::Record;
use job::standby::wire::{FromStandby, ToStandby};
use job::standby::{JournalFacts, Standby, StandbyEffect, StandbyInput, TICK};

/// What waits to be heard: a leader beats a few times a second.
const HEARD: usize = 64;
/// A journal that cannot be read in that time is tried again.
const READ_WITHIN: Duration = Duration::from_secs(10);

type Taken = (Journal, Vec<Record>, Epoch);

/// What happens around the machine.
enum Heard {
    Input(StandbyInput),
    /// Of the connection of that number, and so perhaps of an older one.
    Of(u64, StandbyInput),
    Fenced(Box<Taken>),
}

/// When the steps of a take-over were done.
#[derive(Default)]
struct Steps {
    asked: Option<Time>,
    read: Option<Time>,
    fenced: Option<Time>,
}

pub(super) async fn prepare(request: Request, how: StandBy) -> Result<Outcome, Error> {
    // Whoever started it may end, and take its terminal or session along.
    crate::detach::leave_terminal();
    // What it starts in the background, such as SSH's masters, is no orphan of the host that it outlives.
    nix::sys::prctl::set_child_subreaper(true).map_err(|error| Error::Io {
        what: "cannot become the parent of SSH's connections".into(),
        source: error.into(),
    })?;
    let base = Base::new(request, &how.job, Some(secret()?))?;
    let led = wait_and_lead(base, &how).await;
    if let Err(error) = &led {
        // Nobody sees its standard error.
        tracing::error!(%error, "STANDBY_FAILED");
    }
    led
}

fn secret() -> Result<Secret, Error> {
    let read = Secret::from_line(std::io::stdin().lock()).map_err(|source| Error::Io {
        what: "reading the secret from standard input".into(),
        source,
    })?;
    read.ok_or_else(|| {
        Error::Cannot(
            "standard input must hold the cluster secret; leaders start standbys, nobody needs to by hand"
                .into(),
        )
    })
}

async fn wait_and_lead(base: Base, how: &StandBy) -> Result<Outcome, Error> {
    members(&base.follower, &base.node.name).await?;
    // Connections to all nodes are there when they are needed.
    let (launcher, _opening) = start_launcher(&base, &how.job, true)?;
    let from = base.cluster.nodes.iter().find(|n| n.addr == how.leader.ip());
    let from = from.map(|n| n.name.clone());
    tracing::info!(node = %base.node.name, pid = std::process::id(), leader = %how.leader, "STANDBY");
    let (lead, node_silent, taken, steps, gone) = match wait(&base, how, from.as_ref()).await? {
        Waited::Lead {
            why,
            node_silent,
            taken,
            steps,
            gone,
        } => (why, node_silent, taken, steps, gone),
        Waited::End { why, link } => {
            tracing::info!(node = %base.node.name, why, "STANDBY_END");
            launcher.0.close().await;
            // A leader that ends waits for that.
            drop(link);
            return Ok(Outcome::NotNeeded);
        }
    };
    let resume = Resume {
        job: how.job.clone(),
        op_timeout: None,
        max_restarts: None,
        poison: None,
        standbys: None,
    };
    let bound = async { bind(&base.cluster, &base.node).await };
    let (carried, listener) = tokio::try_join!(carry_on(&base, &resume, *taken), bound)?;
    let now = clock::now();
    let ms = |from: Option<Time>, to: Option<Time>| match (from, to) {
        (Some(from), Some(to)) => to.since(from).as_millis() as u64,
        _ => 0,
    };
    let alive = members(&base.follower, &base.node.name).await?;
    tracing::info!(
        from = %from.as_ref().map_or("?", |n| n.as_str()), node = %base.node.name, pid = std::process::id(), base = %carried.1.base,
        why = lead, silent_ms = gone.1.as_millis() as u64, wait_ms = ms(Some(gone.0), steps.asked), read_ms = ms(steps.asked, steps.read),
        fence_ms = ms(steps.read, steps.fenced), write_ms = ms(steps.fenced, Some(now)), total_ms = ms(Some(gone.0), Some(now)),
        "LEADER_TAKEOVER"
    );
    let mut failed = base.failed(&alive);
    failed.extend(from.filter(|_| node_silent));
    let place = LeaderEndpoint { listener, launcher };
    // The figures are of this leader, not of its waiting.
    ready(base, unix_micros(), carried, place, failed)
}

enum Waited {
    Lead {
        why: String,
        node_silent: bool,
        taken: Box<Taken>,
        steps: Steps,
        /// When the leader was taken for gone, and how long it had been silent by then.
        gone: (Time, Duration),
    },
    End {
        why: String,
        link: Link,
    },
}

/// The connection to the leader, and what is under way.
struct Link {
    number: u64,
    out: Option<mpsc::Sender<FromStandby>>,
    _dial: Option<spawn::Guard>,
    _journal: Option<spawn::Guard>,
}

async fn wait(base: &Base, how: &StandBy, from: Option<&NodeName>) -> Result<Waited, Error> {
    let mut machine = Standby::new(clock::now(), base.cluster.job_lease(), how.base);
    let (tell, mut heard) = mpsc::channel::<Heard>(HEARD);
    let mut link = Link {
        number: 0,
        out: None,
        _dial: None,
        _journal: None,
    };
    let (mut steps, mut taken) = (Steps::default(), None);
    let mut membership = base.follower.watch();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let input = tokio::select! {
            // What was said before a tick counts before it.
            biased;
            Some(heard) = heard.recv() => match heard {
                Heard::Input(input) => input,
                Heard::Of(number, _) if number != link.number => continue,
                Heard::Of(_, input) => input,
                Heard::Fenced(fenced) => {
                    let facts = JournalFacts::of(&fenced.1);
                    taken = Some(fenced);
                    StandbyInput::Fenced(facts)
                }
            },
            Ok(()) = membership.changed() => {
                let view = membership.borrow_and_update();
                let leader = from.and_then(|from| view.members.values().find(|m| m.name == *from));
                match leader.map(|m| m.state) {
                    Some(memberd::State::Failed | memberd::State::Left) if view.connected => StandbyInput::NodeFailed,
                    Some(memberd::State::Alive) => StandbyInput::NodeAlive,
                    _ => continue,
                }
            }
            _ = tick.tick() => StandbyInput::Tick,
        };
        match &input {
            StandbyInput::Read(_) => steps.read = Some(clock::now()),
            StandbyInput::Fenced(_) => steps.fenced = Some(clock::now()),
            _ => {}
        }
        let mut effects = vec![];
        let now = clock::now();
        let (gone, silent) = (machine.gone_since(), now.since(machine.heard_at()));
        machine.handle(now, input, &mut effects);
        for effect in effects {
            match effect {
                StandbyEffect::Dial => {
                    link.number += 1;
                    let (out, queue) = mpsc::channel(HEARD);
                    link.out = Some(out);
                    let register = FromStandby::Register {
                        job: how.job.clone(),
                        node: base.node.name.clone(),
                        pid: std::process::id(),
                    };
                    let talk = talk(
                        how.leader,
                        base.me.clone(),
                        register,
                        link.number,
                        queue,
                        tell.clone(),
                    );
                    link._dial = Some(spawn::guarded("leader", talk));
                }
                StandbyEffect::Hang => {
                    link.number += 1;
                    (link.out, link._dial) = (None, None);
                }
                StandbyEffect::Beat { late_ms } => {
                    if let Some(out) = &link.out {
                        // One that takes none is silent as well.
                        let _ = out.try_send(FromStandby::Beat { late_ms });
                    }
                }
                StandbyEffect::Read => {
                    steps.asked = Some(now);
                    link._journal = Some(spawn::guarded("read-journal", read(base, how, tell.clone())));
                }
                StandbyEffect::Fence => {
                    link._journal = Some(spawn::guarded("fence-journal", fence(base, how, tell.clone())));
                }
                StandbyEffect::Lead { why, node_silent } => {
                    let Some(taken) = taken.take() else {
                        return Err(Error::Cannot("it leads without a journal".into()));
                    };
                    let at = gone.unwrap_or(now);
                    let before = silent.saturating_sub(now.since(at));
                    return Ok(Waited::Lead {
                        why,
                        node_silent,
                        taken,
                        steps,
                        gone: (at, before),
                    });
                }
                StandbyEffect::End { why } => return Ok(Waited::End { why, link }),
            }
        }
    }
}

/// Dials the leader and registers, then says and hears until the connection ends.
async fn talk(
    leader: SocketAddr,
    me: Identity,
    register: FromStandby,
    number: u64,
    mut queue: mpsc::Receiver<FromStandby>,
    tell: mpsc::Sender<Heard>,
) -> Result<(), net::Error> {
    let say = |input| tell.send(Heard::Of(number, input));
    let dialled = async {
        let mut connection = net::dial(leader, &me, Role::Standby).await?;
        connection.tx.send(&register).await?;
        Ok::<_, net::Error>(connection)
    };
    let Connection { mut tx, mut rx, .. } = match dialled.await {
        Ok(connection) => connection,
        Err(error) => {
            let nobody = match &error {
                net::Error::Connect { source, .. } => source.kind() == ErrorKind::ConnectionRefused,
                // Another program has the port.
                net::Error::Magic { .. } | net::Error::Secret => true,
                _ => false,
            };
            let input = if nobody {
                StandbyInput::Refused
            } else {
                StandbyInput::Unreachable
            };
            let _ = say(input).await;
            return Ok(());
        }
    };
    let _ = say(StandbyInput::Connected).await;
    loop {
        tokio::select! {
            message = rx.recv::<ToStandby>() => match message {
                Ok(Some(message)) => drop(say(StandbyInput::Heard(message)).await),
                Ok(None) | Err(_) => break,
            },
            Some(message) = queue.recv() => {
                if tx.send(&message).await.is_err() {
                    break;
                }
            }
        }
    }
    let _ = say(StandbyInput::Closed).await;
    Ok(())
}

fn read(
    base: &Base,
    how: &StandBy,
    tell: mpsc::Sender<Heard>,
) -> impl Future<Output = Result<(), std::convert::Infallible>> + use<> {
    let (client, job) = (base.client.clone(), how.job.clone());
    async move {
        let read = tokio::time::timeout(READ_WITHIN, journal::read(&client, &job)).await;
        let input = match read {
            Ok(Ok(records)) => StandbyInput::Read(JournalFacts::of(&records)),
            Ok(Err(error)) => failed(&error, StandbyInput::Read),
            Err(_) => StandbyInput::Failed,
        };
        let _ = tell.send(Heard::Input(input)).await;
        Ok(())
    }
}

fn fence(
    base: &Base,
    how: &StandBy,
    tell: mpsc::Sender<Heard>,
) -> impl Future<Output = Result<(), std::convert::Infallible>> + use<> {
    let (client, job) = (base.client.clone(), how.job.clone());
    async move {
        let heard = match Journal::take_over(&client, &job).await {
            Ok(taken) => Heard::Fenced(Box::new(taken)),
            Err(error) => Heard::Input(failed(&error, StandbyInput::Fenced)),
        };
        let _ = tell.send(heard).await;
        Ok(())
    }
}

fn failed(error: &OpenError, instead: fn(JournalFacts) -> StandbyInput) -> StandbyInput {
    if let OpenError::Storage(StoreError::NoSuchFile { .. }) = error {
        // Journals are removed when their jobs have ended.
        return instead(JournalFacts {
            ended: true,
            ..JournalFacts::default()
        });
    }
    tracing::warn!(%error, "STANDBY_CANNOT_YET");
    StandbyInput::Failed
}
