//! The newest lines of the leader's log, numbered, for any number of readers that may fall behind.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::telemetry::{LogEvent, Tap};
use serde::{Serialize, Serializer};
use tokio::sync::watch;

/// So many are kept; who falls further behind misses some.
const KEPT: usize = 2000;

/// One line of the log, its words apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Counts from 1.
    pub id: u64,
    pub at: String,
    pub level: &'static str,
    pub event: String,
    #[serde(serialize_with = "as_object")]
    pub fields: Vec<(&'static str, String)>,
}

fn as_object<S: Serializer>(fields: &[(&'static str, String)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(fields.iter().map(|(name, value)| (name, value)))
}

#[derive(Default)]
struct Kept {
    last: u64,
    events: VecDeque<Event>,
}

#[derive(Clone)]
pub struct Events {
    kept: Arc<Mutex<Kept>>,
    newest: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            kept: Arc::default(),
            newest: watch::Sender::new(0),
        }
    }
}

impl Events {
    /// For the log: what it says is kept here too, but for what the page shows better.
    pub fn tap(&self) -> Tap {
        let this = self.clone();
        Arc::new(move |noted: LogEvent| {
            if noted.word != "RATE" {
                this.note(noted);
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // What is in it is right whoever panicked.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, noted: LogEvent) {
        let id = {
            let mut kept = self.lock();
            kept.last += 1;
            let event = Event {
                id: kept.last,
                at: noted.at,
                level: noted.level,
                event: noted.word,
                fields: noted.pairs,
            };
            if kept.events.len() >= KEPT {
                kept.events.pop_front();
            }
            kept.events.push_back(event);
            kept.last
        };
        self.newest.send_replace(id);
    }

    /// Those after number `since`, oldest first, as far as they are kept.
    pub fn after(&self, since: u64) -> Vec<Event> {
        let kept = self.lock();
        let old = kept.events.partition_point(|e| e.id <= since);
        kept.events.range(old..).cloned().collect()
    }

    /// The number of the newest.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(word: &str) -> LogEvent {
        LogEvent {
            at: "2026-11-21T12:00:00.000000Z".into(),
            level: "INFO",
            word: word.into(),
            pairs: vec![("task", "s1t0".into()), ("why", "a \"b\"".into())],
        }
    }

    #[test]
    fn readers_get_what_is_new_and_the_oldest_is_forgotten() {
        let events = Events::default();
        let tap = events.tap();
        tap(noted("TASK_FAIL"));
        tap(noted("RATE"));
        assert_eq!(
            serde_json::to_string(&events.after(0)).unwrap(),
            r#"[{"id":1,"at":"2026-11-21T12:00:00.000000Z","level":"INFO","event":"TASK_FAIL","fields":{"task":"s1t0","why":"a \"b\""}}]"#
        );
        for _ in 0..KEPT + 9 {
            tap(noted("TASK_START"));
        }
        let all = events.after(0);
        assert_eq!((all.len(), all[0].id), (KEPT, 11));
        assert_eq!(events.after(all[KEPT - 1].id - 2).len(), 2);
        assert!(events.after(u64::MAX).is_empty());
        assert_eq!(*events.watch().borrow(), 10 + KEPT as u64);
    }
}
