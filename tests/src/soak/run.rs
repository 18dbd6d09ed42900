//! One soak: a cluster, its jobs, the faults, the samples, the verdict.

use std::fmt::Write;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::net::Identity;
use hydfs::client::Client;
use tokio::runtime::Handle;

use super::fault::{Plan, Struck};
use super::feed::{Fed, feed};
use super::judge::{Seen, judge};
use super::sample::Sample;
use super::trend::{Trend, trend};
use super::watch::Watch;
use super::{Kind, Options};
use crate::chaos::kinds::bundle;
use crate::{Cluster, PATIENCE, now, succeed, wait_for};

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What a figure may grow by in any case: see [`trend`].
const FLOOR_BYTES: f64 = 6.0 * MIB;
const FLOOR_DESCRIPTORS: f64 = 8.0;
/// A storage node keeps so many segment files open.
const HANDLES: f64 = 512.0;
const FLOOR_MS: f64 = 60.0;
const MIB: f64 = 1024.0 * 1024.0;

/// One job, its input and its judge.
struct Soaked {
    name: String,
    fed: Arc<Mutex<Fed>>,
    seen: Arc<Mutex<Seen>>,
    first: Option<Child>,
}

/// A row of the table: seconds since the start, then figures by name.
struct Row {
    at: f64,
    figures: Vec<(String, f64)>,
}

/// What it came to.
pub struct Report {
    pub struck: Struck,
    pub lines: u64,
    /// Bytes ever written to the tasks' logs, and those that are kept.
    pub logged: u64,
    pub kept: u64,
    pub trends: Vec<Trend>,
    pub wrong: Vec<String>,
}

struct Soak<'a> {
    cluster: &'a Cluster,
    options: &'a Options,
    runtime: Handle,
    client: Client,
    jobs: Vec<Soaked>,
    feeding: Arc<AtomicBool>,
    running: Arc<AtomicBool>,
    watch: Watch,
    struck: Struck,
    began: Instant,
    rows: Vec<Row>,
    table: File,
    logged: u64,
    kept: u64,
    wrong: Vec<String>,
}

/// Runs it. `table`: the samples, `SECONDS<TAB>FIGURE<TAB>VALUE` lines.
pub fn run(cluster: &Cluster, options: &Options, table: &Path) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let turns = std::thread::spawn(move || runtime.block_on(stopped));
    let config = Arc::new(common::cluster::Cluster::load(&cluster.config())?);
    let me = Identity {
        who: format!("soak {}", std::process::id()),
        node: None,
        secret: config.secret()?,
        security: config.security,
    };
    let mut soak = Soak {
        cluster,
        options,
        client: Client::new(config, me).with_patience(PATIENCE),
        runtime: handle,
        jobs: vec![],
        feeding: Arc::new(AtomicBool::new(true)),
        running: Arc::new(AtomicBool::new(true)),
        watch: Watch::begin(cluster),
        struck: Struck::default(),
        began: now(),
        rows: vec![],
        table: File::create(table)?,
        logged: 0,
        kept: 0,
        wrong: vec![],
    };
    let went = soak.start().and_then(|()| soak.go_on()).and_then(|()| soak.end());
    if let Err(error) = went {
        soak.wrong.push(format!("{error:#}"));
    }
    soak.feeding.store(false, Ordering::Relaxed);
    soak.running.store(false, Ordering::Relaxed);
    let report = soak.report();
    drop(soak);
    drop(stop);
    let _ = turns.join();
    Ok(report)
}

impl Soak<'_> {
    fn names(&self) -> Vec<String> {
        self.jobs.iter().map(|job| job.name.clone()).collect()
    }

    fn start(&mut self) -> Result<()> {
        if self.options.jobs.iter().any(|(kind, _)| *kind == Kind::Python) {
            let source = crate::root().join("demo/operators/mood.py");
            bundle(&source, &self.cluster.path("mood"))?;
        }
        for (kind, rate) in &self.options.jobs {
            let name = kind.name().to_owned();
            let (fed, seen) = (Arc::new(Mutex::new(Fed::default())), Arc::default());
            let (client, feeding) = (self.client.clone(), self.feeding.clone());
            let feeder = {
                let (fed, name, rate) = (fed.clone(), name.clone(), *rate);
                async move { feed(client, &name, rate, fed, || !feeding.load(Ordering::Relaxed)).await }
            };
            let failed: Arc<Mutex<Seen>> = Arc::clone(&seen);
            self.runtime.spawn(async move {
                if let Err(error) = feeder.await {
                    failed.lock().expect("nobody panics").wrong = Some(format!("the feeder: {error:#}"));
                }
            });
            let first = self.start_job(*kind, &name)?;
            let (client, dest, running) = (self.client.clone(), format!("out/{name}"), self.running.clone());
            let ended = move || !running.load(Ordering::Relaxed);
            self.runtime
                .spawn(judge(client, dest, *kind, fed.clone(), Arc::clone(&seen), ended));
            self.jobs.push(Soaked {
                name,
                fed,
                seen,
                first: Some(first),
            });
        }
        wait_for("output of every job", PATIENCE, || {
            self.complain()?;
            let lines = |job: &Soaked| job.seen.lock().expect("nobody panics").lines;
            Ok(self.jobs.iter().all(|job| lines(job) > 0).then_some(()))
        })
    }

    fn start_job(&self, kind: Kind, name: &str) -> Result<Child> {
        let (source, dest) = (format!("soak/{name}"), format!("out/{name}"));
        let mut args: Vec<String> = [
            "--job",
            name,
            "--follow",
            "--console",
            "none",
            "--progress",
            "never",
        ]
        .map(str::to_owned)
        .to_vec();
        if kind != Kind::Count {
            args.extend(["--format", "value"].map(str::to_owned));
        }
        args.extend(kind.stages().map(str::to_owned));
        args.extend([source, dest, "true".into(), "false".into()]);
        let child = self
            .cluster
            .command("leader")
            .args(args)
            .stdout(Stdio::null())
            .stderr(File::create(self.cluster.path(&format!("{name}.err")))?)
            .spawn()?;
        Ok(child)
    }

    /// An error that somebody has met, if there is one.
    fn complain(&self) -> Result<()> {
        for job in &self.jobs {
            let wrong = job.seen.lock().expect("nobody panics").wrong.clone();
            ensure!(wrong.is_none(), "{}: {}", job.name, wrong.unwrap_or_default());
        }
        Ok(())
    }

    fn go_on(&mut self) -> Result<()> {
        let mut plan = Plan::new(self.options);
        let (mut next_fault, mut next_sample) = (now() + plan.pause(), now() + self.options.every);
        let names = self.names();
        let (mut last_lines, mut last_at) = (0, now());
        while now() - self.began < self.options.time {
            std::thread::sleep(LOOK_EVERY);
            self.watch.look()?;
            self.complain()?;
            ensure!(
                self.watch.broken.is_empty(),
                "the logs say: {:?}",
                &self.watch.broken[..1]
            );
            if !self.options.pause.is_zero() && now() >= next_fault {
                let fault = plan.draw();
                let hit = plan.strike(fault, self.cluster, &names, &mut self.watch, &mut self.struck);
                hit.with_context(|| format!("{fault:?}"))?;
                next_fault = now() + plan.pause();
            }
            if now() >= next_sample {
                let lines = self.lines();
                let rate = (lines - last_lines) as f64 / (now() - last_at).as_secs_f64();
                (last_lines, last_at) = (lines, now());
                self.sample(rate)?;
                next_sample += self.options.every;
            }
            let silent = |job: &&Soaked| {
                let seen = job.seen.lock().expect("nobody panics");
                seen.last.is_none_or(|last| now() - last > PATIENCE)
            };
            let silent = self.jobs.iter().find(silent).map(|job| job.name.clone());
            ensure!(silent.is_none(), "{silent:?}: nothing came out for {PATIENCE:?}");
        }
        Ok(())
    }

    fn lines(&self) -> u64 {
        let lines = |job: &Soaked| job.seen.lock().expect("nobody panics").lines;
        self.jobs.iter().map(lines).sum()
    }

    fn sample(&mut self, rate: f64) -> Result<()> {
        let names = self.names();
        let sample = self
            .runtime
            .block_on(Sample::take(self.cluster, &self.client, &names))?;
        let mut figures: Vec<(String, f64)> = vec![("lines/s".into(), rate)];
        for (kind, bytes) in &sample.kept {
            figures.push((format!("kept {kind} MiB"), *bytes as f64 / MIB));
        }
        (self.logged, self.kept) = (sample.logged, sample.kept("log"));
        figures.push(("logged MiB".into(), sample.logged as f64 / MIB));
        figures.push(("disk MiB".into(), sample.disk as f64 / MIB));
        for (program, taken) in &sample.taken {
            figures.push((format!("{program} MiB"), taken.most as f64 / MIB));
            figures.push((format!("{program} descriptors"), taken.descriptors as f64));
        }
        let ms = |all: &mut Vec<Duration>, part: f64| {
            all.sort();
            let at = ((all.len() as f64 - 1.0) * part).round().max(0.0) as usize;
            all.get(at).map(|d| d.as_secs_f64() * 1000.0)
        };
        let mut recoveries = std::mem::take(&mut self.watch.recoveries);
        let mut replays = std::mem::take(&mut self.watch.replays);
        let mut ages = vec![];
        for job in &self.jobs {
            ages.append(&mut job.seen.lock().expect("nobody panics").ages);
        }
        let times = [
            ("recovery ms", ms(&mut recoveries, 0.5)),
            ("recovery p95 ms", ms(&mut recoveries, 0.95)),
            ("replay ms", ms(&mut replays, 0.5)),
            ("latency p50 ms", ms(&mut ages, 0.5)),
            ("latency p99 ms", ms(&mut ages, 0.99)),
        ];
        figures.extend(
            times
                .into_iter()
                .filter_map(|(name, ms)| Some((name.to_owned(), ms?))),
        );
        let replayed = std::mem::take(&mut self.watch.replayed);
        if replayed > 0 {
            figures.push(("replayed MiB".into(), replayed as f64 / MIB));
        }
        let at = (now() - self.began).as_secs_f64();
        let mut line = format!("{at:6.0} s  {:3} kills", self.struck.all());
        for (name, value) in &figures {
            writeln!(self.table, "{at:.1}\t{name}\t{value:.3}")?;
            let _ = write!(line, "  {name} {value:.1}");
        }
        self.table.flush()?;
        println!("{line}");
        self.rows.push(Row { at, figures });
        Ok(())
    }

    /// Nothing more is fed; the jobs are told to end with what is there, and what came out is judged.
    fn end(&mut self) -> Result<()> {
        self.feeding.store(false, Ordering::Relaxed);
        wait_for("the input to be stored", PATIENCE, || {
            self.complain()?;
            let stored = |job: &Soaked| {
                let fed = job.fed.lock().expect("nobody panics");
                fed.stored == fed.lines
            };
            Ok(self.jobs.iter().all(stored).then_some(()))
        })?;
        for job in self.names() {
            succeed(self.cluster.command("rainstormctl").args(["stop", &job]))?;
        }
        for job in self.names() {
            self.cluster.wait_until_gone(&job, PATIENCE)?;
        }
        for job in &mut self.jobs {
            // One whose leader was killed ended long ago; which exit code that had says nothing.
            if let Some(mut child) = job.first.take() {
                child.wait()?;
            }
        }
        self.running.store(false, Ordering::Relaxed);
        let judged = |job: &Soaked| Arc::strong_count(&job.fed) == 1;
        wait_for("the judges", PATIENCE, || {
            Ok(self.jobs.iter().all(judged).then_some(()))
        })?;
        self.complain()?;
        for job in self.names() {
            let said = succeed(self.cluster.command("rainstormctl").args(["verify", &job]))?;
            println!("{}", said.trim_end());
            ensure!(
                said.contains("proved") && !said.contains("has not ended"),
                "{said}"
            );
        }
        self.watch.look()?;
        ensure!(
            self.watch.broken.is_empty(),
            "the logs say: {:?}",
            self.watch.broken
        );
        Ok(())
    }

    fn report(&mut self) -> Report {
        // The state of a job whose keys become more grows with them; the input and the output are what they are.
        let floors = [
            ("kept log MiB", FLOOR_BYTES / MIB),
            ("kept journal MiB", FLOOR_BYTES / MIB),
            ("memberd MiB", FLOOR_BYTES / MIB),
            ("hydfsd MiB", FLOOR_BYTES / MIB),
            ("leader MiB", FLOOR_BYTES / MIB),
            ("memberd descriptors", FLOOR_DESCRIPTORS),
            ("hydfsd descriptors", HANDLES),
            ("leader descriptors", FLOOR_DESCRIPTORS),
            ("worker descriptors", FLOOR_DESCRIPTORS),
            ("recovery ms", FLOOR_MS),
            ("replay ms", FLOOR_MS),
        ];
        let series = |name: &str| -> Vec<(f64, f64)> {
            let of = |row: &Row| {
                row.figures
                    .iter()
                    .find(|(n, _)| n == name)
                    .map(|(_, value)| (row.at, *value))
            };
            self.rows.iter().filter_map(of).collect()
        };
        let trends = floors
            .iter()
            .filter_map(|(name, floor)| trend(name, &series(name), *floor))
            .collect();
        Report {
            struck: self.struck,
            lines: self.lines(),
            logged: self.logged,
            kept: self.kept,
            trends,
            wrong: std::mem::take(&mut self.wrong),
        }
    }
}

impl Drop for Soak<'_> {
    fn drop(&mut self) {
        for job in &mut self.jobs {
            if let Some(child) = &mut job.first {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}
