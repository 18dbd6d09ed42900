//! The progress display on standard error: live lines on a terminal, else a plain line every few seconds. Log lines go
//! through the same place, so that they do not tear it.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use common::clock::Time;
use common::shown;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli;
use job::machine::{Job, State};

const PLAIN_EVERY: Duration = Duration::from_secs(5);
const LIVE_EVERY: Duration = Duration::from_millis(200);

/// Standard error, shared by the display and the log.
#[derive(Clone)]
pub struct Screen {
    multi: MultiProgress,
    live: bool,
}

impl Screen {
    pub fn new(progress: cli::Progress) -> Self {
        let live = progress != cli::Progress::Never && io::stderr().is_terminal();
        let target = if live {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            multi: MultiProgress::with_draw_target(target),
            live,
        }
    }

    /// Whether printing to a terminal must go through [`Screen::aside`].
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Takes the display away while `f` writes to the terminal.
    pub fn aside<R>(&self, f: impl FnOnce() -> R) -> R {
        if self.live { self.multi.suspend(f) } else { f() }
    }

    /// One line for people, whatever the display shows.
    pub fn say(&self, line: &str) {
        // A closed standard error is nobody's failure.
        self.aside(|| drop(writeln!(io::stderr(), "{}", shown::text(line))));
    }

    /// For the log.
    pub fn writer(&self) -> impl Fn() -> Line + Send + Sync + 'static {
        let screen = self.clone();
        move || Line {
            screen: screen.clone(),
            text: vec![],
        }
    }
}

/// One log line, written whole when dropped.
pub struct Line {
    screen: Screen,
    text: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // A closed standard error is nobody's failure.
        self.screen.aside(|| drop(io::stderr().write_all(&self.text)));
    }
}

pub struct Display {
    screen: Screen,
    wanted: bool,
    bars: Vec<ProgressBar>,
    /// Columns that the bars are laid out for.
    width: u16,
    next: Time,
    input_bytes: u64,
}

impl Display {
    pub fn new(screen: Screen, progress: cli::Progress, job: &Job, now: Time) -> Self {
        let wanted = progress != cli::Progress::Never;
        let mut bars = vec![];
        if screen.live && wanted {
            for _ in &job.plan().stages {
                bars.push(
                    screen
                        .multi
                        .add(ProgressBar::new(job.plan().input_bytes().max(1))),
                );
            }
        }
        let first = if screen.live { now } else { now + PLAIN_EVERY };
        Self {
            screen,
            wanted,
            bars,
            width: 0,
            next: first,
            input_bytes: job.plan().input_bytes(),
        }
    }

    /// Shows the job as it is, when it is time again.
    pub fn show(&mut self, job: &Job, now: Time) {
        if !self.wanted || now < self.next {
            return;
        }
        if self.screen.live {
            self.next = now + LIVE_EVERY;
            self.lay_out(job);
            for (k, bar) in self.bars.iter().enumerate() {
                let look = Look::at(job, k);
                if k == 0 {
                    bar.set_position(look.bytes_in.min(self.input_bytes));
                }
                bar.set_message(look.text());
            }
        } else {
            self.next = now + PLAIN_EVERY;
            // A closed standard error is nobody's failure.
            let _ = writeln!(io::stderr(), "{}", self.plain(job));
        }
    }

    /// A line of the terminal for each stage, however narrow it has become.
    fn lay_out(&mut self, job: &Job) {
        let width = terminal_size::terminal_size_of(io::stderr()).map_or(80, |(width, _)| width.0);
        if width == self.width {
            return;
        }
        self.width = width;
        let (name, bar) = columns(width);
        for ((k, stage), line) in job.plan().stages.iter().enumerate().zip(&self.bars) {
            // Nobody knows how much there will be to follow.
            let read = match (k == 0 && !job.plan().follow, bar) {
                (false, _) => String::new(),
                (true, 0) => "{percent:>3}% ".into(),
                (true, bar) => format!("[{{bar:{bar}}}] {{percent:>3}}% "),
            };
            // `wide_msg` is cut off at the terminal's edge.
            let template = format!("{{prefix:{name}}} {read}{{wide_msg}}");
            let style = ProgressStyle::with_template(&template);
            line.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            line.set_prefix(shorten(&format!("{k} {}", stage.label()), name));
        }
    }

    fn plain(&self, job: &Job) -> String {
        let look = Look::at(job, 0);
        let read = match self.input_bytes {
            _ if job.plan().follow => format!("{} lines read", thousands(look.tuples_in)),
            0 => "100% read".into(),
            all => format!("{:.0}% read", 100.0 * look.bytes_in as f64 / all as f64),
        };
        let state = if job.is_draining() { ", draining" } else { "" };
        let mut line = format!("{}: {read}{state}", job.plan().job);
        for (k, stage) in job.plan().stages.iter().enumerate() {
            line.push_str(&format!(
                "; {k} {}: {}",
                shorten(&stage.label(), 24),
                Look::at(job, k).text()
            ));
        }
        line
    }

    pub fn end(&mut self) {
        self.bars.drain(..).for_each(|bar| bar.finish_and_clear());
    }
}

/// What a stage is doing.
#[derive(Default)]
pub struct Look {
    pub in_per_s: f64,
    pub out_per_s: f64,
    /// Tasks that something is routed to.
    pub active: usize,
    pub up: usize,
    pub done: usize,
    pub backlog: u64,
    pub restarts: u32,
    pub bytes_in: u64,
    pub tuples_in: u64,
    pub tuples_out: u64,
}

impl Look {
    pub fn at(job: &Job, stage: usize) -> Self {
        let mut look = Self {
            active: job.plan().active(stage as u16).len(),
            ..Self::default()
        };
        for task in job.tasks().filter(|t| usize::from(t.id.stage) == stage) {
            look.up += usize::from(matches!(task.state, State::Attached { started: true, .. }));
            look.done += usize::from(task.is_done() && !task.retired);
            if !task.is_done() {
                look.in_per_s += task.report.in_per_s;
                look.out_per_s += task.report.out_per_s;
                look.backlog += task.report.backlog_bytes;
            }
            look.restarts += task.restarts;
            look.bytes_in += task.totals.bytes_in;
            look.tuples_in += task.totals.tuples_in;
            look.tuples_out += task.totals.tuples_out;
        }
        look
    }

    fn text(&self) -> String {
        let tasks = self.active;
        let mut text = format!("{}/s in, {}/{tasks} up", thousands(self.in_per_s as u64), self.up);
        if self.done > 0 {
            text.push_str(&format!(", {} done", self.done));
        }
        match self.restarts {
            0 => {}
            1 => text.push_str(", 1 restart"),
            n => text.push_str(&format!(", {n} restarts")),
        }
        if self.backlog > 0 {
            text.push_str(&format!(", backlog {}", indicatif::HumanBytes(self.backlog)));
        }
        text
    }
}

/// How wide a stage's name and the bar are in a terminal of so many columns.
fn columns(width: u16) -> (usize, usize) {
    match width {
        100.. => (24, 20),
        60.. => (18, 10),
        _ => (9, 0),
    }
}

fn thousands(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

fn shorten(text: &str, most: usize) -> String {
    let text = &*shown::line(text);
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::ids::NodeName;
    use job::machine::Config;
    use job::plan::sample::sample;

    #[test]
    fn a_plain_line_tells_of_each_stage() {
        let nodes = vec![NodeName::new("n1").unwrap()];
        let config = Config {
            lease: Duration::from_secs(3),
            max_restarts: 5,
        };
        let job = Job::new(sample(2, 3, 1, &nodes), config, nodes, Default::default());
        let display = Display::new(
            Screen::new(cli::Progress::Never),
            cli::Progress::Never,
            &job,
            Time::ZERO,
        );
        let line = display.plain(&job);
        assert!(
            line.starts_with("j: 0% read; 0 source: 0/s in, 0/1 up; 1 identity"),
            "{line}"
        );
        let mut plan = job.plan().clone();
        plan.follow = true;
        let config = Config {
            lease: Duration::from_secs(3),
            max_restarts: 5,
        };
        let job = Job::new(
            plan,
            config,
            vec![NodeName::new("n1").unwrap()],
            Default::default(),
        );
        assert!(
            display.plain(&job).starts_with("j: 0 lines read; 0 source"),
            "{}",
            display.plain(&job)
        );
        assert_eq!(shorten("abcdef", 4), "abc…");
    }
}
