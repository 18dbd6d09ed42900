//! Logging as the contract has it: one line per event, RFC 3339 time, level, an EVENT word, then `name=value` pairs.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Flushes the log when dropped: hold it until the end of `main`.
#[must_use]
pub struct Guard {
    _file: Option<WorkerGuard>,
    reopen: Option<Reopen>,
}

impl Guard {
    /// Opens the log file anew by its name: whoever rotates logs has renamed the one that is open.
    pub fn reopen(&self) {
        let Some(reopen) = &self.reopen else { return };
        match open(&reopen.path) {
            Ok(file) => {
                *reopen.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
                tracing::info!(file = %reopen.path.display(), "LOG_REOPENED");
            }
            // The old one is still there.
            Err(error) => tracing::warn!(file = %reopen.path.display(), error = %error, "LOG_NOT_REOPENED"),
        }
    }
}

struct Reopen {
    path: PathBuf,
    next: Arc<Mutex<Option<File>>>,
}

/// The file that is written, until there is another one.
struct LogFile {
    file: File,
    next: Arc<Mutex<Option<File>>>,
}

impl io::Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(next) = self.next.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.file = next;
        }
        self.file.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Several processes share worker.log: O_APPEND and one write per line keep lines whole.
fn open(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new().create(true).append(true).open(path)
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot write logs to {dir}: {source}")]
    Folder {
        dir: std::path::PathBuf,
        source: std::io::Error,
    },
}

/// One line of the log, for those who show it elsewhere too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// As [`timestamp`] writes it.
    pub at: String,
    pub level: &'static str,
    /// The EVENT word.
    pub word: String,
    pub pairs: Vec<(&'static str, String)>,
}

/// Is given every line at INFO and above. Called where the event happens: it must not wait.
pub type Tap = Arc<dyn Fn(Noted) + Send + Sync>;

/// Logs at INFO (or `$RAINSTORM_LOG`) to `<dir>/<file>`, appending, and at WARN to `console` (standard error for most).
pub fn init<W>(file: Option<(&Path, &str)>, console: W) -> Result<Guard, Error>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    init_tapped(file, console, None)
}

/// The same; `tap` is told as well.
pub fn init_tapped<W>(file: Option<(&Path, &str)>, console: W, tap: Option<Tap>) -> Result<Guard, Error>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let wanted = || EnvFilter::try_from_env("RAINSTORM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let (file_layer, guard, reopen) = match file {
        Some((dir, name)) => {
            let failed = |source| Error::Folder {
                dir: dir.into(),
                source,
            };
            std::fs::create_dir_all(dir).map_err(failed)?;
            let path = dir.join(name);
            let next = Arc::default();
            let out = LogFile {
                file: open(&path).map_err(failed)?,
                next: Arc::clone(&next),
            };
            let (writer, guard) = NonBlockingBuilder::default().lossy(false).finish(out);
            let layer = tracing_subscriber::fmt::layer()
                .event_format(Line)
                .log_internal_errors(false)
                .with_writer(writer)
                .with_filter(wanted());
            (Some(layer), Some(guard), Some(Reopen { path, next }))
        }
        None => (None, None, None),
    };
    // A terminal that has gone takes no lines, and complaining about that there would end the thread that does.
    let console_layer = tracing_subscriber::fmt::layer()
        .event_format(Line)
        .log_internal_errors(false)
        .with_writer(console)
        .with_filter(LevelFilter::WARN);
    // A second call (tests start several components in one process) keeps the first subscriber.
    let _ = tracing_subscriber::registry()
        .with(file_layer)
        .with(console_layer)
        .with(tap.map(|tap| TapLayer(tap).with_filter(LevelFilter::INFO)))
        .try_init();
    Ok(Guard { _file: guard, reopen })
}

/// `2026-11-21T05:40:00.123456Z INFO TASK_START job=j task=s1t0`
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = level_name(event);
        let mut fields = Fields::default();
        event.record(&mut fields);
        writeln!(out, "{} {level} {}{}", timestamp(), fields.message, fields.pairs)
    }
}

fn level_name(event: &Event<'_>) -> &'static str {
    match *event.metadata().level() {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

struct TapLayer(Tap);

impl<S: Subscriber> Layer<S> for TapLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut noted = Noted {
            at: timestamp(),
            level: level_name(event),
            word: String::new(),
            pairs: vec![],
        };
        event.record(&mut noted);
        (self.0)(noted);
    }
}

impl Noted {
    fn put(&mut self, field: &Field, text: String) {
        match field.name() {
            "message" => self.word = text,
            name => self.pairs.push((name, text)),
        }
    }
}

impl Visit for Noted {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

/// Now, as RFC 3339 in UTC with microseconds.
pub fn timestamp() -> String {
    let us = crate::clock::unix_micros();
    let when = time::OffsetDateTime::from_unix_timestamp_nanos(us as i128 * 1000)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        when.year(),
        u8::from(when.month()),
        when.day(),
        when.hour(),
        when.minute(),
        when.second(),
        when.microsecond()
    )
}

#[derive(Default)]
struct Fields {
    message: String,
    pairs: String,
}

impl Fields {
    fn put(&mut self, field: &Field, text: &str) {
        if field.name() == "message" {
            self.message = one_line(text);
        } else {
            let _ = write!(self.pairs, " {}={}", field.name(), quoted(text));
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }
}

fn one_line(text: &str) -> String {
    crate::shown::line(text).into_owned()
}

/// As it is when it is one plain word, else in quotes with escapes: a value never breaks the line or the pairs.
fn quoted(text: &str) -> String {
    let plain = !text.is_empty()
        && text
            .chars()
            .all(|c| !c.is_whitespace() && !crate::shown::is_hidden(c) && c != '"');
    if plain {
        text.to_owned()
    } else {
        format!("{text:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_is_told_what_the_log_says_and_nothing_below_info() {
        let told = Arc::new(std::sync::Mutex::new(vec![]));
        let tap: Tap = {
            let told = told.clone();
            Arc::new(move |noted| told.lock().unwrap().push(noted))
        };
        let layer = TapLayer(tap).with_filter(LevelFilter::INFO);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(task = "s1t0", why = "a b", epoch = 2, node = %"n1", "TASK_FAIL");
            tracing::debug!("no");
        });
        let told = told.lock().unwrap();
        assert_eq!(told.len(), 1);
        let pairs: Vec<(&str, &str)> = told[0].pairs.iter().map(|(n, v)| (*n, v.as_str())).collect();
        assert_eq!((told[0].level, told[0].word.as_str()), ("WARN", "TASK_FAIL"));
        assert_eq!(
            pairs,
            [("task", "s1t0"), ("why", "a b"), ("epoch", "2"), ("node", "n1")]
        );
    }

    #[test]
    fn values_stay_on_one_line() {
        assert_eq!(quoted("s1t0"), "s1t0");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted("a\nTASK_FAIL"), "\"a\\nTASK_FAIL\"");
        assert_eq!(quoted(""), "\"\"");
    }
}
