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

/// Runs `future` on a thread and a runtime of its own: it goes on in time whatever the caller's thread does. It ends with its
/// future, or with the process.
pub fn thread<E: std::fmt::Display>(
    name: &'static str,
    future: impl Future<Output = Result<(), E>> + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new().name(name.into()).spawn(move || {
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
