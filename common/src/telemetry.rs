//! Logging as the contract has it: one line per event, RFC 3339 time, level, an EVENT word, then `name=value` pairs.
//!
//! What all lines of a process have in common is said once, by a span that `main` enters around its single-threaded runtime:
//!
//! ```
//! let job = "j";
//! let _context = tracing::error_span!("job", job = %job).entered();
//! ```
//! Its fields come first in each line, and in what a [`Tap`] is told; a field that the event says itself is the event's.
//! `error_span!`, since a filter that leaves the span out takes its fields out of the lines.

mod log_file;

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::cluster;
use log_file::LogFile;

/// Flushes the log when dropped: hold it until the end of `main`.
#[must_use]
pub struct Guard {
    _file: Option<WorkerGuard>,
    path: Option<PathBuf>,
}

impl Guard {
    /// Somebody may have renamed the log and wants to be sure that the old one is written no more. Every line is written to
    /// the file that bears the log's name by then, and this one says so there.
    pub fn reopen(&self) {
        if let Some(path) = &self.path {
            tracing::info!(file = %path.display(), "LOG_REOPENED");
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot write logs to {dir}: {source}; make the folder writable, or name another with `log` in the cluster file"
    )]
    Folder {
        dir: std::path::PathBuf,
        source: std::io::Error,
    },
}

/// One line of the log, for those who show it elsewhere too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    /// As [`timestamp`] writes it.
    pub at: String,
    pub level: &'static str,
    /// The EVENT word.
    pub word: String,
    pub pairs: Vec<(&'static str, String)>,
}

/// Is given every line at INFO and above. Called where the event happens: it must not wait.
pub type Tap = Arc<dyn Fn(LogEvent) + Send + Sync>;

/// The file that a program logs to. Several processes may share it.
#[derive(Debug, Clone, Copy)]
pub struct LogTo<'a> {
    pub folder: &'a Path,
    pub name: &'a str,
    pub limits: cluster::Log,
}

/// Logs at INFO (or `$RAINSTORM_LOG`) to a file, appending, and at WARN to `console` (standard error for most).
pub fn init<W>(file: Option<LogTo<'_>>, console: W) -> Result<Guard, Error>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    init_tapped(file, console, None)
}

/// The same; `tap` is told as well.
pub fn init_tapped<W>(file: Option<LogTo<'_>>, console: W, tap: Option<Tap>) -> Result<Guard, Error>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let wanted = || EnvFilter::try_from_env("RAINSTORM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let (file_layer, guard, path) = match file {
        Some(to) => {
            let failed = |source| Error::Folder {
                dir: to.folder.into(),
                source,
            };
            std::fs::create_dir_all(to.folder).map_err(failed)?;
            let out = LogFile::open(to.folder, to.name, to.limits).map_err(failed)?;
            let path = out.path().to_owned();
            let (writer, guard) = NonBlockingBuilder::default().lossy(false).finish(out);
            let layer = tracing_subscriber::fmt::layer()
                .event_format(Line)
                .log_internal_errors(false)
                .with_writer(writer)
                .with_filter(wanted());
            (Some(layer), Some(guard), Some(path))
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
        .with(ContextLayer)
        .with(file_layer)
        .with(console_layer)
        .with(tap.map(|tap| TapLayer(tap).with_filter(LevelFilter::INFO)))
        .try_init();
    Ok(Guard { _file: guard, path })
}

/// `2026-11-21T05:40:00.123456Z INFO TASK_START job=j task=s1t0`
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = level_name(event);
        let mut fields = Fields::default();
        for (name, text) in context(ctx.event_scope(), event) {
            fields.pair(name, &text);
        }
        event.record(&mut fields);
        writeln!(out, "{} {level} {}{}", timestamp(), fields.message, fields.pairs)
    }
}

/// Keeps what each span says, for the lines within it.
struct ContextLayer;

/// A span's fields.
#[derive(Default)]
struct SpanPairs(Vec<(&'static str, String)>);

impl Visit for SpanPairs {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.retain(|(name, _)| *name != field.name());
        self.0.push((field.name(), value.to_owned()));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for ContextLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let mut pairs = SpanPairs::default();
        attributes.record(&mut pairs);
        if let Some(span) = ctx.span(id) {
            span.extensions_mut().insert(pairs);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id)
            && let Some(pairs) = span.extensions_mut().get_mut::<SpanPairs>()
        {
            values.record(pairs);
        }
    }
}

/// What the spans around an event say, the outermost first, but for what the event says itself.
fn context<'a, S>(spans: Option<Scope<'a, S>>, event: &Event<'_>) -> Vec<(&'static str, String)>
where
    S: for<'l> LookupSpan<'l>,
{
    let mut all = vec![];
    for span in spans.into_iter().flat_map(Scope::from_root) {
        if let Some(SpanPairs(pairs)) = span.extensions().get() {
            let own = |name: &str| event.fields().any(|field| field.name() == name);
            all.extend(pairs.iter().filter(|(name, _)| !own(name)).cloned());
        }
    }
    all
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

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TapLayer {
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut noted = LogEvent {
            at: timestamp(),
            level: level_name(event),
            word: String::new(),
            pairs: context(ctx.event_scope(event), event),
        };
        event.record(&mut noted);
        (self.0)(noted);
    }
}

impl LogEvent {
    fn put(&mut self, field: &Field, text: String) {
        match field.name() {
            "message" => self.word = text,
            name => self.pairs.push((name, text)),
        }
    }
}

impl Visit for LogEvent {
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
        match field.name() {
            "message" => self.message = one_line(text),
            name => self.pair(name, text),
        }
    }

    fn pair(&mut self, name: &str, text: &str) {
        let _ = write!(self.pairs, " {name}={}", quoted(text));
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
    use std::io;
    use std::sync::Mutex;

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

    /// Where a layer writes in a test.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_span_says_comes_first_in_its_lines_and_once() {
        let (written, told) = (Written::default(), Arc::new(Mutex::new(vec![])));
        let tap: Tap = {
            let told = told.clone();
            Arc::new(move |noted: LogEvent| told.lock().unwrap().push(noted.pairs))
        };
        let lines = {
            let written = written.clone();
            tracing_subscriber::fmt::layer()
                .event_format(Line)
                .with_writer(move || written.clone())
                .with_filter(LevelFilter::WARN)
        };
        let layers = tracing_subscriber::registry()
            .with(ContextLayer)
            .with(lines)
            .with(TapLayer(tap).with_filter(LevelFilter::INFO));
        tracing::subscriber::with_default(layers, || {
            let _job = tracing::error_span!("job", job = %"a job").entered();
            tracing::warn!(task = "s1t0", "TASK_FAIL");
            let _task = tracing::error_span!("task", task = "s1t0", epoch = 2).entered();
            tracing::warn!(epoch = 3, node = %"n1", "REPLAY");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().map(|l| l.split_once(' ').unwrap().1).collect();
        assert_eq!(
            lines,
            [
                "WARN TASK_FAIL job=\"a job\" task=s1t0",
                "WARN REPLAY job=\"a job\" task=s1t0 epoch=3 node=n1",
            ]
        );
        let told = told.lock().unwrap();
        let names: Vec<Vec<&str>> = told.iter().map(|p| p.iter().map(|(n, _)| *n).collect()).collect();
        assert_eq!(names, [vec!["job", "task"], vec!["job", "task", "epoch", "node"]]);
    }

    #[test]
    fn values_stay_on_one_line() {
        assert_eq!(quoted("s1t0"), "s1t0");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted("a\nTASK_FAIL"), "\"a\\nTASK_FAIL\"");
        assert_eq!(quoted(""), "\"\"");
    }
}
