//! Starts workers on this machine, without SSH.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;

use common::ids::{Epoch, NodeName, TaskId};
use common::secret::Secret;
use common::{orphans, spawn, work_folder};
use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use super::{Closing, Launcher, Order, ProcessEvent, ProcessEvents, StandbyOrder, attend};
use common::exit::Exit;

pub struct Local {
    secret: Secret,
    events: ProcessEvents,
    running: BTreeMap<(TaskId, Epoch), (Arc<Notify>, spawn::Guard)>,
    /// No orphans, though nobody here ends them: one a node.
    standbys: BTreeMap<NodeName, (orphans::Own, spawn::Guard)>,
}

impl Local {
    pub fn new(secret: Secret, events: ProcessEvents) -> Self {
        Self {
            secret,
            events,
            running: BTreeMap::new(),
            standbys: BTreeMap::new(),
        }
    }

    /// Whether a kill of that process would find it.
    pub fn runs(&self, task: TaskId, epoch: Epoch) -> bool {
        self.running
            .get(&(task, epoch))
            .is_some_and(|(_, guard)| !guard.is_finished())
    }

    /// Kills all; their ends are told.
    pub fn kill_all(&self) {
        for (kill, _) in self.running.values() {
            kill.notify_one();
        }
    }
}

impl Launcher for Local {
    fn launch(&mut self, order: Order) {
        self.running.retain(|_, (_, guard)| !guard.is_finished());
        let kill = Arc::new(Notify::new());
        let id = (order.task, order.epoch);
        let run = run(order, self.secret.clone(), kill.clone(), self.events.clone());
        self.running
            .insert(id, (kill, spawn::guarded("local-process", run)));
    }

    fn stand_by(&mut self, order: StandbyOrder) {
        self.standbys.retain(|_, (_, guard)| !guard.is_finished());
        let StandbyOrder { node, program, args } = order;
        let mut command = Command::new(&program);
        // What it has to say is in its log: who started it may be gone.
        command
            .args(&args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let failed = |why: String| {
            let node = node.clone();
            // The receiver is gone only when the job is over.
            let _ = self.events.send(ProcessEvent::StandbyEnded { node, why });
        };
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return failed(format!("cannot start {}: {error}", program.display())),
        };
        let Some(pid) = child.id() else {
            return failed("it ended at once".into());
        };
        let own = orphans::own(pid);
        let attend = attend_standby(child, node.clone(), self.secret.clone(), self.events.clone());
        self.standbys
            .insert(node, (own, spawn::guarded("standby", attend)));
    }

    fn kill(&mut self, task: TaskId, epoch: Epoch, _: NodeName, _: u32) {
        if let Some((kill, _)) = self.running.get(&(task, epoch)) {
            kill.notify_one();
        }
    }

    fn close(self: Box<Self>) -> Closing {
        // Dropping the tasks kills what still runs.
        Box::pin(async move {
            let Self {
                running, standbys, ..
            } = *self;
            drop(running);
            tokio::task::yield_now().await;
            orphans::end(None, None);
            drop(standbys);
        })
    }
}

/// Gives a standby the secret, and tells its end.
async fn attend_standby(
    mut child: Child,
    node: NodeName,
    secret: Secret,
    events: ProcessEvents,
) -> Result<(), std::convert::Infallible> {
    if let Some(mut stdin) = child.stdin.take() {
        // One that has ended already does not read it.
        let _ = stdin.write_all(format!("{}\n", secret.to_hex()).as_bytes()).await;
    }
    let exit = child
        .wait()
        .await
        .map_or_else(|e| Exit::Unknown(e.to_string()), Exit::from);
    let why = format!("its process ended: {exit}; leader.log on node {node} says why");
    let _ = events.send(ProcessEvent::StandbyEnded { node, why });
    Ok(())
}

async fn run(
    order: Order,
    secret: Secret,
    kill: Arc<Notify>,
    events: ProcessEvents,
) -> Result<(), std::convert::Infallible> {
    let (task, epoch) = (order.task, order.epoch);
    let failed = |why: String| {
        // The receiver is gone only when the job is over.
        let _ = events.send(ProcessEvent::Failed { task, epoch, why });
    };
    let mut command = Command::new(&order.program);
    command
        .args(&order.args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    // Not SIGKILL: a worker ends its operator with all that it started, and nobody would be left to do that.
    orphans::end_with_parent(command.as_std_mut(), Signal::SIGTERM);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            // As a shell says it.
            let stderr = vec![format!("cannot start {}: {error}", order.program.display())];
            let _ = events.send(ProcessEvent::Exited {
                task,
                epoch,
                exit: Exit::Code(127),
                stderr,
            });
            return Ok(());
        }
    };
    let own = child.id().map(orphans::own);
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        failed("its standard streams are not piped".into());
        return Ok(());
    };
    let wait = async {
        loop {
            tokio::select! {
                status = child.wait() => break status.map_or_else(|e| Exit::Unknown(e.to_string()), Exit::from),
                _ = kill.notified() => drop(child.start_kill()),
            }
        }
    };
    let (exit, stderr) = attend(&secret, stdin, stdout, stderr, wait).await;
    let _ = events.send(ProcessEvent::Exited {
        task,
        epoch,
        exit,
        stderr,
    });
    drop(own);
    // A worker that was killed has left its operator's helpers. All others have ended theirs, or still have them.
    orphans::end(None, None);
    let _ = tokio::task::spawn_blocking(move || work_folder::sweep(&order.data)).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::Duration;
    use tokio::sync::mpsc;

    fn script(dir: &Path, text: &str) -> std::path::PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let file = dir.join("worker");
        std::fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    async fn outcome(text: &str, kill: bool) -> ProcessEvent {
        let dir = tempfile::tempdir().unwrap();
        let (events, mut heard) = mpsc::unbounded_channel();
        let mut local = Local::new(Secret::from_text(b"a secret of some length"), events);
        let (task, epoch, node) = (TaskId::new(1, 0), Epoch(2), NodeName::new("n1").unwrap());
        let program = if text.is_empty() {
            dir.path().join("none")
        } else {
            script(dir.path(), text)
        };
        local.launch(Order {
            task,
            epoch,
            node: node.clone(),
            program,
            args: vec!["--epoch".into(), "2".into()],
            data: dir.path().to_owned(),
        });
        if kill {
            local.kill(task, epoch, node, 0);
        }
        tokio::time::timeout(Duration::from_secs(20), heard.recv())
            .await
            .expect("an end")
            .expect("an event")
    }

    #[tokio::test]
    async fn a_process_gets_the_secret_on_stdin_and_its_end_is_told_with_its_last_words() {
        let told = outcome(
            "read secret; echo $1 $2 ${#secret} >&2; yes | head -c 300000; exit 3",
            false,
        )
        .await;
        let ProcessEvent::Exited {
            exit, stderr, epoch, ..
        } = told
        else {
            panic!("{told:?}")
        };
        assert_eq!(
            (exit, stderr, epoch),
            (Exit::Code(3), vec!["--epoch 2 64".to_owned()], Epoch(2))
        );
    }

    #[tokio::test]
    async fn a_kill_is_told_as_one() {
        let told = outcome("exec sleep 600", true).await;
        assert!(
            matches!(
                told,
                ProcessEvent::Exited {
                    exit: Exit::Killed,
                    ..
                }
            ),
            "{told:?}"
        );
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_told() {
        let told = outcome("", false).await;
        let ProcessEvent::Exited { exit, stderr, .. } = told else {
            panic!("{told:?}")
        };
        assert!(
            exit == Exit::Code(127) && stderr[0].contains("none"),
            "{stderr:?}"
        );
    }
}
