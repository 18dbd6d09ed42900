//! The one way to spawn: every task has a name and says what its end means.

use std::collections::HashMap;
use std::future::Future;

use tokio::task::{Id, JoinHandle, JoinSet};

/// A spawned task that is aborted when this is dropped.
#[derive(Debug)]
pub struct Guard(JoinHandle<()>);

impl Guard {
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `future` beside the caller. An error is logged under the task's name and ends only this task.
#[allow(clippy::disallowed_methods)] // this is the one way to spawn
pub fn task<E: std::fmt::Display>(
    name: &'static str,
    future: impl Future<Output = Result<(), E>> + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = future.await {
            tracing::warn!(task = name, error = %error, "TASK_ERROR");
        }
    })
}

/// Runs `future` on a thread and a runtime of its own: it goes on in time whatever the caller's thread does. It ends with its
/// future, or with the process. Its log lines say what the caller's say.
pub fn thread<E: std::fmt::Display>(
    name: &'static str,
    future: impl Future<Output = Result<(), E>> + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let context = tracing::Span::current();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        let _context = context.entered();
        if let Err(error) = runtime.block_on(future) {
            tracing::warn!(task = name, error = %error, "TASK_ERROR");
        }
        // What still waits for somebody is not waited for.
        runtime.shutdown_background();
    })
}

/// Like [`task`], bound to the returned guard's life.
pub fn guarded<E: std::fmt::Display>(
    name: &'static str,
    future: impl Future<Output = Result<(), E>> + Send + 'static,
) -> Guard {
    Guard(task(name, future))
}

/// Tasks without which their process is of no use: when one ends, for whatever reason, the process should. Its main loop waits for
/// that with [`Vitals::lost`] beside its own work. All are aborted when this is dropped.
#[derive(Debug, Default)]
pub struct Vitals {
    tasks: JoinSet<Result<(), String>>,
    names: HashMap<Id, &'static str>,
}

/// Which task ended, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its task `{task}`, without which it is of no use, has ended: {why}")]
pub struct Lost {
    pub task: &'static str,
    pub why: String,
}

impl Vitals {
    pub fn spawn<E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        future: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let task = self
            .tasks
            .spawn(async move { future.await.map_err(|e| e.to_string()) });
        self.names.insert(task.id(), name);
    }

    /// Waits until one has ended, and logs it; for ever when there is none. Cancel-safe.
    pub async fn lost(&mut self) -> Lost {
        let (id, why) = match self.tasks.join_next_with_id().await {
            Some(Ok((id, Err(why)))) => (id, why),
            Some(Ok((id, Ok(())))) => (id, "it had no more to do".to_owned()),
            Some(Err(error)) => (error.id(), error.to_string()),
            None => std::future::pending().await,
        };
        let task = self.names.get(&id).copied().unwrap_or("unnamed");
        tracing::error!(task, why, "TASK_LOST");
        Lost { task, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_vital_task_is_missed_however_it_ends() {
        type End = fn() -> Result<(), String>;
        let ends: [(&str, End, &str); 3] = [
            ("fails", || Err("no more".into()), "no more"),
            ("returns", || Ok(()), "no more to do"),
            ("panics", || panic!("on purpose"), "panicked"),
        ];
        for (name, end, why) in ends {
            let mut vitals = Vitals::default();
            vitals.spawn("lives", std::future::pending::<Result<(), String>>());
            vitals.spawn(name, async move { end() });
            let lost = vitals.lost().await;
            assert!(lost.task == name && lost.why.contains(why), "{lost}");
        }
    }
}
