//! The node's host: the program that starts one job's workers on one node, `rainstormctl --cluster F host --node N --job J`.
//! It is a single SSH session, and so a single login shell, however many workers are started and restarted.
//!
//! On its standard input: the cluster's secret on a line, then a [`HostCommand`] a line. On its standard output: a [`HostReply`] a
//! line. All lines are JSON. It ends soon after its standard input has: workers whose leader has gone stop by themselves,
//! and what has not stopped after [`GRACE`] is killed. What operators of killed workers leave behind comes to it, and is ended.

use std::io;
use std::time::Duration;

use common::ids::{Epoch, NodeName, TaskId};
use common::secret::Secret;
use common::{orphans, spawn};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::sync::mpsc;

use super::kill::kill_worker;
use super::{Launcher, Order, ProcessEvent, StandbyOrder};
use crate::local::Local;

/// How long workers may go on when the leader has gone.
pub const GRACE: Duration = Duration::from_secs(3);
/// Killed processes are gone at once.
const KILL_WITHIN: Duration = Duration::from_secs(1);
/// The secret follows the start at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// A reader that takes nothing for so long has gone.
const WRITE_WITHIN: Duration = Duration::from_secs(2);
/// No line is nearly as long; what is longer is no line of ours.
const LONGEST: u64 = 1024 * 1024;
/// A word that cannot be read is told, in short.
const SHOWN: usize = 200;

/// What a leader says to a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostCommand {
    Launch(Order),
    /// Starts a standby leader, which goes on when this host ends.
    StandBy(StandbyOrder),
    /// Kills that process if it is the host's own, or else process `pid` if its command line holds `must`.
    Kill {
        task: TaskId,
        epoch: Epoch,
        pid: u32,
        must: String,
    },
    /// Kills process `pid` if its command line holds `must`: for people, who know no more of it.
    KillProcess {
        pid: u32,
        must: String,
    },
}

/// What a host says to its leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostReply {
    /// The first line. What comes before it is the login shell's.
    Ready,
    Event(ProcessEvent),
    Killed {
        task: TaskId,
        epoch: Epoch,
        pid: u32,
        /// Why not, if it was not.
        failed: Option<String>,
    },
    /// What came of [`HostCommand::KillProcess`]: its command line, or why not.
    KilledProcess {
        pid: u32,
        killed: Result<String, String>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "standard input must begin with the cluster secret; the leader starts this program, nobody needs to by hand"
    )]
    Secret,
    #[error("cannot become the parent of what operators leave behind: {0}")]
    Adopt(io::Error),
    #[error("the leader does not take what is said: {0}")]
    Write(#[from] io::Error),
    #[error("the leader says what this program does not understand (are both of the same version?): {0}")]
    Command(String),
}

/// Makes this process the one that ends what operators leave behind, and ends what is left from before.
pub fn begin() -> Result<(), Error> {
    orphans::adopt().map_err(Error::Adopt)?;
    orphans::end_left_behind();
    Ok(())
}

/// Runs until `stdin` ends. `node` is where it runs.
pub async fn serve(
    node: NodeName,
    stdin: impl AsyncRead + Unpin + Send + 'static,
    mut stdout: impl AsyncWrite + Unpin,
) -> Result<(), Error> {
    let mut stdin = BufReader::new(stdin);
    let first = tokio::time::timeout(PATIENCE, line(&mut stdin)).await;
    let text = first.ok().and_then(Result::ok).flatten().ok_or(Error::Secret)?;
    let secret = Secret::from_hex(&text).ok_or(Error::Secret)?;
    say(&mut stdout, &HostReply::Ready).await?;

    let (tell, mut words) = mpsc::channel(64);
    let _reader = spawn::guarded("host-words", async move {
        while let Ok(Some(text)) = line(&mut stdin).await {
            if tell.send(text).await.is_err() {
                break;
            }
        }
        Ok::<(), io::Error>(())
    });
    // Each launch has one event: as many as workers were started here.
    let (events, mut ended) = mpsc::unbounded_channel();
    let mut local = Local::new(secret, events);
    // Each launch has one event.
    let mut running = 0usize;
    let end = loop {
        let said = tokio::select! {
            text = words.recv() => match text.map(|text| parse::<HostCommand>(&text).ok_or(text)) {
                None => break Ok(()),
                Some(Ok(HostCommand::Launch(order))) => {
                    running += 1;
                    local.launch(order);
                    continue;
                }
                Some(Ok(HostCommand::StandBy(order))) => {
                    local.stand_by(order);
                    continue;
                }
                Some(Ok(HostCommand::Kill { task, epoch, pid, must })) => {
                    let killed = if local.runs(task, epoch) {
                        local.kill(task, epoch, node.clone(), pid);
                        Ok(())
                    } else {
                        kill_worker(pid, &must).map(drop)
                    };
                    HostReply::Killed { task, epoch, pid, failed: killed.err() }
                }
                Some(Ok(HostCommand::KillProcess { pid, must })) => {
                    HostReply::KilledProcess { pid, killed: kill_worker(pid, &must) }
                }
                Some(Err(text)) => break Err(Error::Command(text.chars().take(SHOWN).collect())),
            },
            Some(event) = ended.recv() => {
                running -= usize::from(event.worker().is_some());
                HostReply::Event(event)
            }
        };
        if let Err(error) = say(&mut stdout, &said).await {
            break Err(error.into());
        }
    };
    let ends = tell_ends(&mut running, &mut ended, &mut stdout);
    if tokio::time::timeout(GRACE, ends).await.is_err() {
        local.kill_all();
        let ends = tell_ends(&mut running, &mut ended, &mut stdout);
        let _ = tokio::time::timeout(KILL_WITHIN, ends).await;
    }
    Box::new(local).close().await;
    end
}

/// Until none runs. Who would hear it may have gone, or may only have no more to say.
async fn tell_ends(
    running: &mut usize,
    ended: &mut mpsc::UnboundedReceiver<ProcessEvent>,
    stdout: &mut (impl AsyncWrite + Unpin),
) {
    while *running > 0
        && let Some(event) = ended.recv().await
    {
        *running -= usize::from(event.worker().is_some());
        let _ = say(stdout, &HostReply::Event(event)).await;
    }
}

/// The next line; a longer one comes in pieces, which are then no JSON. None at the end. Not to be dropped half-way.
pub(super) async fn line(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut bytes = vec![];
    let n = from.take(LONGEST).read_until(b'\n', &mut bytes).await?;
    Ok((n > 0).then(|| String::from_utf8_lossy(&bytes).into_owned()))
}

pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// Writes one line, in bounded time.
pub(super) async fn say(to: &mut (impl AsyncWrite + Unpin), what: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(what)?;
    text.push(b'\n');
    write(to, &text).await
}

pub(super) async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let write = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    tokio::time::timeout(WRITE_WITHIN, write)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::exit::Exit;
    use tokio::io::{DuplexStream, duplex};

    struct Host {
        to: DuplexStream,
        from: BufReader<DuplexStream>,
        end: tokio::sync::oneshot::Receiver<Result<(), Error>>,
        dir: tempfile::TempDir,
        _guard: spawn::Guard,
    }

    fn name() -> NodeName {
        NodeName::new("n1").unwrap()
    }

    impl Host {
        async fn start(hello: &str) -> Self {
            let (mut to, stdin) = duplex(4096);
            let (stdout, from) = duplex(4096);
            let (tell, end) = tokio::sync::oneshot::channel();
            let guard = spawn::guarded("host", async move {
                let _ = tell.send(serve(name(), stdin, stdout).await);
                Ok::<(), Error>(())
            });
            to.write_all(format!("{hello}\n").as_bytes()).await.unwrap();
            let (from, dir) = (BufReader::new(from), tempfile::tempdir().unwrap());
            Self {
                to,
                from,
                end,
                dir,
                _guard: guard,
            }
        }

        async fn ready() -> Self {
            let mut host = Self::start(&Secret::from_text(b"a secret of some length").to_hex()).await;
            assert_eq!(host.hear().await, Some(HostReply::Ready));
            host
        }

        async fn launch(&mut self, task: TaskId, script: &str) {
            use std::os::unix::fs::PermissionsExt;
            let program = self.dir.path().join(format!("worker-{task}"));
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            let order = Order {
                task,
                epoch: Epoch(1),
                node: name(),
                program,
                args: vec!["--x".into()],
                data: self.dir.path().to_owned(),
            };
            say(&mut self.to, &HostCommand::Launch(order)).await.unwrap();
        }

        async fn hear(&mut self) -> Option<HostReply> {
            let text = tokio::time::timeout(Duration::from_secs(20), line(&mut self.from)).await;
            text.expect("a line in time")
                .unwrap()
                .map(|text| parse(&text).expect("JSON"))
        }

        async fn end(self) -> Result<(), Error> {
            let Self {
                to,
                from,
                end,
                dir,
                _guard,
            } = self;
            drop(to);
            let ended = tokio::time::timeout(Duration::from_secs(20), end).await;
            drop((from, dir));
            ended.expect("an end in time").unwrap()
        }
    }

    fn exited(said: Option<HostReply>) -> (TaskId, Exit, Vec<String>) {
        match said {
            Some(HostReply::Event(ProcessEvent::Exited {
                task, exit, stderr, ..
            })) => (task, exit, stderr),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn workers_are_started_and_their_ends_told() {
        let mut host = Host::ready().await;
        let (one, two) = (TaskId::new(0, 0), TaskId::new(1, 0));
        host.launch(one, "read secret; echo $1 ${#secret} >&2; exit 3")
            .await;
        assert_eq!(
            exited(host.hear().await),
            (one, Exit::Code(3), vec!["--x 64".to_owned()])
        );
        host.launch(two, "exec sleep 600").await;
        let kill = HostCommand::Kill {
            task: two,
            epoch: Epoch(1),
            pid: 0,
            must: "no matter".into(),
        };
        say(&mut host.to, &kill).await.unwrap();
        let (mut killed, mut ended) = (false, false);
        while !killed || !ended {
            match host.hear().await {
                Some(HostReply::Killed {
                    task, failed: None, ..
                }) if task == two => killed = true,
                said => {
                    assert_eq!(exited(said), (two, Exit::Killed, vec![]));
                    ended = true;
                }
            }
        }
        host.end().await.unwrap();
    }

    #[tokio::test]
    async fn a_kill_of_what_is_not_a_worker_is_refused() {
        let mut host = Host::ready().await;
        let (task, epoch) = (TaskId::new(0, 0), Epoch(1));
        let refused = [
            (std::process::id(), "not a worker"),
            (0, "no process"),
            (u32::MAX, "no process"),
        ];
        for (pid, why) in refused {
            let kill = HostCommand::Kill {
                task,
                epoch,
                pid,
                must: "--cluster /no/such ".into(),
            };
            say(&mut host.to, &kill).await.unwrap();
            let Some(HostReply::Killed {
                failed: Some(failed), ..
            }) = host.hear().await
            else {
                panic!()
            };
            assert!(failed.contains(why), "{failed}");
        }
        host.end().await.unwrap();
    }

    #[tokio::test]
    async fn a_kill_for_people_is_answered_with_the_command_line_or_why_not() {
        let mut host = Host::ready().await;
        let pid = std::process::id();
        let must = "no matter".into();
        say(&mut host.to, &HostCommand::KillProcess { pid, must })
            .await
            .unwrap();
        let Some(HostReply::KilledProcess { killed: Err(why), .. }) = host.hear().await else {
            panic!()
        };
        assert!(why.contains("not a worker"), "{why}");
        host.end().await.unwrap();
    }

    #[tokio::test]
    async fn it_ends_with_its_input_and_leaves_no_worker() {
        let mut host = Host::ready().await;
        host.launch(TaskId::new(0, 0), "echo $$ > \"$0.pid\"; exec sleep 600")
            .await;
        let file = host.dir.path().join("worker-s0t0.pid");
        let pid = loop {
            match std::fs::read_to_string(&file)
                .unwrap_or_default()
                .trim()
                .parse::<u32>()
            {
                Ok(pid) => break pid,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let began = common::clock::now();
        host.end().await.unwrap();
        assert!(common::clock::now().since(began) < Duration::from_secs(5));
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z"), "{state}");
    }

    #[tokio::test]
    async fn what_is_not_the_protocol_ends_it() {
        assert!(matches!(
            Host::start("not a secret").await.end().await,
            Err(Error::Secret)
        ));
        let mut host = Host::ready().await;
        host.to.write_all(b"{\"launch\":{}}\n").await.unwrap();
        assert!(matches!(host.end().await, Err(Error::Command(_))));
    }
}
