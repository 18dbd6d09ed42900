//! What is shown: the newest snapshot, the events, and how the rates were.

use std::sync::{Arc, Mutex, PoisonError};

use common::clock::Time;
use tokio::sync::watch;

use super::events::Events;
use super::history::History;
use super::snapshot::Snapshot;

#[derive(Clone)]
pub struct State {
    /// `None` before the first.
    pub now: watch::Sender<Option<Arc<Snapshot>>>,
    pub events: Events,
    history: Arc<Mutex<History>>,
}

impl State {
    pub fn new(events: Events) -> Self {
        Self {
            now: watch::Sender::new(None),
            events,
            history: Arc::default(),
        }
    }

    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.now.borrow().clone()
    }

    pub fn show(&self, now: Time, snapshot: Snapshot) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.take(now, &snapshot);
        drop(history);
        self.now.send_replace(Some(Arc::new(snapshot)));
    }

    pub fn history(&self) -> String {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_string(&*history).unwrap_or_default()
    }

    /// All that is known, as JSON: what the page begins with.
    pub fn full(&self, since: u64) -> String {
        let text = self.snapshot().map(|snapshot| snapshot.text());
        let now = text
            .as_deref()
            .map_or("null", |t| str::from_utf8(t).unwrap_or("null"));
        let events = serde_json::to_string(&self.events.after(since)).unwrap_or_default();
        format!(
            r#"{{"now":{now},"history":{},"events":{events}}}"#,
            self.history()
        )
    }
}
