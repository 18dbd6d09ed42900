//! The output on its way to standard output, beside everything else.

use std::sync::Arc;
use std::time::Duration;

use common::spawn;
use tokio::sync::{oneshot, watch};

use super::prepare::Ready;
use crate::cli;
use crate::printer::{self, First};
use job::journal;

pub struct Printing {
    pub first: First,
    end: watch::Sender<Option<u64>>,
    result: oneshot::Receiver<Result<(), printer::Error>>,
    task: Option<spawn::Guard>,
}

impl Printing {
    pub fn start(ready: &Ready) -> Self {
        let first = First::default();
        let (end, receiver) = watch::channel(None);
        let (tell, result) = oneshot::channel();
        let base = &ready.base;
        if base.request.console == cli::Console::None {
            let _ = tell.send(Ok(()));
            return Self {
                first,
                end,
                result,
                task: None,
            };
        }
        let plan = ready.job.plan();
        let file = printer::File {
            client: base.client.with_patience(journal::PATIENCE),
            name: plan.dest.clone(),
            creation: plan.output.creation(),
        };
        let (from, noted) = (plan.output.from(), first.clone());
        let all = base.request.console == cli::Console::All;
        let out = printer::Stdout::new(base.screen.clone());
        let task = spawn::guarded("console", async move {
            let file = Arc::new(file);
            let printed = if all {
                printer::copy_all(&*file, from, out, receiver, noted).await
            } else {
                printer::sample(&*file, from, out, receiver, noted, Duration::from_secs(1)).await
            };
            let _ = tell.send(printed);
            Ok::<(), printer::Error>(())
        });
        Self {
            first,
            end,
            result,
            task: Some(task),
        }
    }

    /// The output is complete at that length.
    pub fn end_at(&self, len: u64) {
        // Nobody listens any more when standard output was closed.
        let _ = self.end.send(Some(len));
    }

    /// Prints no more; what was printed is what there is.
    pub fn stop(&mut self) {
        self.task = None;
    }

    pub async fn done(&mut self) -> Result<(), printer::Error> {
        (&mut self.result).await.unwrap_or(Ok(()))
    }
}
