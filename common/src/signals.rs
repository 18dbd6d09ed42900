//! Signals, read the same way by every program.
//!
//! The first that asks a program to stop lets it tidy up; the second ends it at once. A SIGHUP that was ignored when the program
//! started (`nohup`) stays ignored. Daemons take SIGHUP for a request to open their logs anew.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::spawn;

/// A signal that asks for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Interrupt,
    Terminate,
    Hangup,
}

impl Asked {
    const ALL: [Asked; 3] = [Asked::Interrupt, Asked::Terminate, Asked::Hangup];

    pub fn name(self) -> &'static str {
        match self {
            Asked::Interrupt => "SIGINT",
            Asked::Terminate => "SIGTERM",
            Asked::Hangup => "SIGHUP",
        }
    }

    fn kind(self) -> SignalKind {
        match self {
            Asked::Interrupt => SignalKind::interrupt(),
            Asked::Terminate => SignalKind::terminate(),
            Asked::Hangup => SignalKind::hangup(),
        }
    }

    /// The exit code of a program that it ended, as shells have it.
    pub fn code(self) -> u8 {
        128 + self.kind().as_raw_value() as u8
    }

    /// Those that are listened to.
    fn heard() -> impl Iterator<Item = Asked> {
        let ignored = hangup_is_ignored();
        Asked::ALL
            .into_iter()
            .filter(move |asked| *asked != Asked::Hangup || !ignored)
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether this process was started with SIGHUP ignored. Only true as long as nobody listens to it.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    is_ignored(&status, SignalKind::hangup().as_raw_value())
}

/// By the mask `SigIgn` of `/proc/PID/status`: bit n-1 is signal n.
fn is_ignored(status: &str, number: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0) >> (number - 1) & 1 == 1
}

/// The signals of a program that decides itself what each of them means.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
    put_back: Option<Asked>,
}

impl Signals {
    pub fn new() -> io::Result<Self> {
        let hangup = match hangup_is_ignored() {
            true => None,
            false => Some(signal(SignalKind::hangup())?),
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
            put_back: None,
        })
    }

    /// Waits for the next. Cancel-safe.
    pub async fn next(&mut self) -> Asked {
        if let Some(asked) = self.put_back.take() {
            return asked;
        }
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.terminate.recv() => Asked::Terminate,
            _ = hangup => Asked::Hangup,
        }
    }

    /// It was heard where it could not be acted on: the next to listen hears it again.
    pub fn put_back(&mut self, asked: Asked) {
        self.put_back = Some(asked);
    }

    /// Of a daemon: waits until it is to stop; at each SIGHUP `reopen` is called.
    pub async fn stopped(&mut self, mut reopen: impl FnMut()) -> Asked {
        loop {
            match self.next().await {
                Asked::Hangup => reopen(),
                asked => return asked,
            }
        }
    }
}

/// Tells those who hold the [`Stop`].
#[derive(Debug)]
pub struct Stopper(watch::Sender<Option<Asked>>);

/// A request to stop that may come. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Option<Asked>>);

impl Stopper {
    pub fn new() -> (Self, Stop) {
        let (tell, heard) = watch::channel(None);
        (Self(tell), Stop(heard))
    }

    pub fn ask(&self, asked: Asked) {
        self.0.send_replace(Some(asked));
    }
}

impl Stop {
    /// One that never comes.
    pub fn never() -> Self {
        Stopper::new().1
    }

    /// The first SIGINT, SIGTERM or SIGHUP, as long as the guard is held. The second ends the process, whatever it is doing.
    pub fn on_signals() -> io::Result<(Self, spawn::Guard)> {
        let mut signals = Signals::new()?;
        let told = Arc::new(AtomicBool::new(false));
        // In this order: the first signal must not meet its own mark.
        for asked in Asked::heard() {
            let number = asked.kind().as_raw_value();
            signal_hook::flag::register_conditional_default(number, told.clone())?;
        }
        for asked in Asked::heard() {
            signal_hook::flag::register(asked.kind().as_raw_value(), told.clone())?;
        }
        let (stopper, stop) = Stopper::new();
        let guard = spawn::guarded("signals", async move {
            stopper.ask(signals.next().await);
            // As long as it is held, who asks what was asked gets an answer.
            std::future::pending::<Result<(), io::Error>>().await
        });
        Ok((stop, guard))
    }

    pub fn was_asked(&self) -> Option<Asked> {
        *self.0.borrow()
    }

    /// Waits until somebody asks.
    pub async fn asked(&self) -> Asked {
        let mut heard = self.0.clone();
        if let Ok(asked) = heard.wait_for(Option::is_some).await
            && let Some(asked) = *asked
        {
            return asked;
        }
        std::future::pending().await
    }

    /// What the future comes to, unless it is asked to stop before.
    pub async fn unless<T>(&self, future: impl Future<Output = T>) -> Result<T, Asked> {
        tokio::select! {
            biased;
            asked = self.asked() => Err(asked),
            done = future => Ok(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_says_what_is_ignored() {
        // SIGHUP is 1, SIGPIPE 13.
        assert!(is_ignored("Name:\tx\nSigIgn:\t0000000000000001\n", 1));
        assert!(!is_ignored("SigIgn:\t0000000000001000\n", 1));
        assert!(is_ignored("SigIgn:\t0000000000001000\n", 13));
        assert!(!is_ignored("", 1));
    }

    #[test]
    fn codes_are_those_of_shells() {
        let codes = Asked::ALL.map(Asked::code);
        assert_eq!(codes, [130, 143, 129]);
    }

    #[tokio::test]
    async fn a_stop_comes_to_all_who_wait_and_stays() {
        let (stopper, stop) = Stopper::new();
        assert_eq!(stop.unless(async { 7 }).await, Ok(7));
        stopper.ask(Asked::Terminate);
        assert_eq!(stop.clone().asked().await, Asked::Terminate);
        assert_eq!(
            stop.unless(std::future::pending::<()>()).await,
            Err(Asked::Terminate)
        );
        drop(stopper);
        assert_eq!(stop.was_asked(), Some(Asked::Terminate));
        let never = Stop::never();
        let waited = tokio::time::timeout(std::time::Duration::from_millis(1), never.asked());
        assert!(waited.await.is_err());
    }
}
