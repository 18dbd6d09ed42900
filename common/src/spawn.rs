//! The one way to spawn: every task has a name and says what its end means.

use std::future::Future;

use tokio::task::JoinHandle;

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

/// Like [`task`], bound to the returned guard's life.
pub fn guarded<E: std::fmt::Display>(
    name: &'static str,
    future: impl Future<Output = Result<(), E>> + Send + 'static,
) -> Guard {
    Guard(task(name, future))
}
