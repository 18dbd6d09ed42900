//! `rainstorm-op bench-foreign`: how many tuples a second an executable takes, and an operator inside the process.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use common::clock;
use ops::foreign::{DESCRIBE_WITHIN, Process, Spec, describe};
use ops::{Emit, Operator};
use protocol::batch::{Batch, Builder};
use protocol::control::{OpKind, Protocol};

pub const USAGE: &str = "\
rainstorm-op bench-foreign [--like 'OPERATOR ARGS'] [--seconds N] [--input FILE] [--describe-timeout SECONDS]
             [filter:|transform:|aggregate:]EXE [ARGS]
    measures tuples/s through an executable, and for comparison through an operator in this process\n";

const BATCH_BYTES: usize = 128 << 10;
/// Of the values that are made where no input is given: 33 bytes each on average.
const MADE_LINES: u64 = 200_000;
const TIMEOUT: Duration = Duration::from_secs(20);

struct Options {
    like: Option<String>,
    duration: Duration,
    input: Option<String>,
    describe_within: Duration,
    kind: Option<OpKind>,
    exe: String,
    args: Vec<String>,
}

pub fn main(args: &[String]) -> ExitCode {
    let Some(options) = options(args) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => match common::orphans::adopt() {
            Ok(()) => runtime.block_on(run(&options)),
            Err(e) => Err(e.to_string()),
        },
        Err(e) => Err(e.to_string()),
    };
    match done {
        Ok(report) => crate::print(&report),
        Err(e) => {
            common::output::complain(format!("rainstorm-op: {e}"));
            ExitCode::FAILURE
        }
    }
}

fn options(args: &[String]) -> Option<Options> {
    let mut options = Options {
        like: None,
        duration: Duration::from_secs(2),
        input: None,
        describe_within: DESCRIBE_WITHIN,
        kind: None,
        exe: String::new(),
        args: vec![],
    };
    let mut args = args.iter();
    loop {
        match args.next()?.as_str() {
            "--like" => options.like = Some(args.next()?.clone()),
            "--seconds" => options.duration = Duration::from_secs(args.next()?.parse().ok()?),
            "--describe-timeout" => {
                let seconds = args.next()?.parse().ok()?;
                options.describe_within = Duration::try_from_secs_f64(seconds)
                    .ok()
                    .filter(|d| !d.is_zero())?;
            }
            "--input" => options.input = Some(args.next()?.clone()),
            exe => {
                let prefixes = [
                    ("filter:", OpKind::Filter),
                    ("transform:", OpKind::Transform),
                    ("aggregate:", OpKind::Aggregate),
                ];
                let prefix = prefixes.iter().find(|(prefix, _)| exe.starts_with(prefix));
                options.kind = prefix.map(|(_, kind)| *kind);
                options.exe = exe[prefix.map_or(0, |(prefix, _)| prefix.len())..].to_owned();
                options.args = args.cloned().collect();
                return Some(options);
            }
        }
    }
}

/// Takes outputs as the worker does: into columns.
#[derive(Default)]
struct Columns {
    built: Builder,
    tuples: u64,
}

impl Emit for Columns {
    fn emit(&mut self, key: &[u8], value: &[u8]) {
        self.tuples += 1;
        self.built.push(key, value);
        if self.built.bytes() > BATCH_BYTES {
            self.built.take();
        }
    }
}

async fn run(o: &Options) -> Result<String, String> {
    let mut report = String::new();
    let exe = Path::new(&o.exe)
        .canonicalize()
        .map_err(|e| format!("{}: {e}", o.exe))?;
    let waiting = |word: &str| common::output::complain(format!("rainstorm-op: {word}"));
    let said = describe(&exe, &o.args, o.describe_within, waiting).await;
    let said = said.map_err(|e| format!("{e} {}", e.stderr.join(" | ")).trim_end().to_owned())?;
    let spec = Spec {
        kind: said
            .as_ref()
            .map(|d| d.kind)
            .or(o.kind)
            .unwrap_or(OpKind::Transform),
        protocol: said.as_ref().map_or(Protocol::Text, |d| d.protocol),
        keys: said.as_ref().is_none_or(|d| d.keys),
    };
    let batches = batches(o.input.as_deref(), spec.kind == OpKind::Aggregate)?;
    let mut process = Process::start(&exe, &o.args, &[], &spec, None, TIMEOUT, |line| {
        common::output::complain(line)
    })
    .await
    .map_err(|e| e.to_string())?;
    let mut out = Columns::default();
    // The first batches start the program.
    for batch in batches.iter().take(3) {
        process
            .process(batch, &mut out)
            .await
            .map_err(|e| format!("{e} {:?}", e.stderr))?;
    }
    let (begin, mut tuples) = (clock::now(), 0);
    let cpu_before = cpu(&process);
    out.tuples = 0;
    'time: loop {
        for batch in &batches {
            process
                .process(batch, &mut out)
                .await
                .map_err(|e| format!("{e} {:?}", e.stderr))?;
            tuples += batch.len();
            if clock::now().since(begin) > o.duration {
                break 'time;
            }
        }
    }
    let cpu_after = cpu(&process);
    let protocol = match spec.protocol {
        Protocol::Text => "text",
        Protocol::Batch => "batch",
    };
    let foreign = say(
        &mut report,
        &format!("{} ({protocol} protocol)", o.exe),
        tuples,
        out.tuples,
        begin,
    );
    if let ((Some(a), Some(b)), (Some(c), Some(d))) = (cpu_before, cpu_after) {
        let per_tuple = |before, after| (after - before) as f64 / tuples as f64;
        let (here, there) = (per_tuple(a, c), per_tuple(b, d));
        report += &format!("           CPU: {here:.0} ns a tuple here, {there:.0} in the program\n");
    }
    process.finish().await.map_err(|e| e.to_string())?;

    let like = o.like.clone().unwrap_or_else(|| match spec.kind {
        OpKind::Aggregate => "count".to_owned(),
        OpKind::Filter | OpKind::Transform => "identity".to_owned(),
    });
    let inside = in_process(&mut report, &like, &batches, o.duration)?;
    report += &format!("{:>10.0} % of it\n", 100.0 * foreign / inside);
    Ok(report)
}

/// Processor time used so far: here, and by the program.
fn cpu(process: &Process) -> (Option<u64>, Option<u64>) {
    let pid = process.pid().map(|pid| pid.to_string());
    (cpu_ns("self"), pid.and_then(|pid| cpu_ns(&pid)))
}

/// Of a process's main thread; both here have no other.
fn cpu_ns(pid: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn in_process(report: &mut String, like: &str, batches: &[Batch], duration: Duration) -> Result<f64, String> {
    let mut words = like.split_ascii_whitespace().map(str::to_owned);
    let name = words.next().unwrap_or_default();
    let mut operator: Box<dyn Operator> =
        ops::builtin(&name, &words.collect::<Vec<_>>()).map_err(|e| e.to_string())?;
    let (begin, mut tuples, mut out) = (clock::now(), 0, Columns::default());
    let cpu = cpu_ns("self");
    loop {
        for batch in batches {
            operator.process(batch, &mut out).map_err(|e| e.to_string())?;
            tuples += batch.len();
        }
        if clock::now().since(begin) > duration {
            let per_s = say(report, &format!("{like} (in process)"), tuples, out.tuples, begin);
            if let (Some(before), Some(after)) = (cpu, cpu_ns("self")) {
                *report += &format!(
                    "           CPU: {:.0} ns a tuple\n",
                    (after - before) as f64 / tuples as f64
                );
            }
            return Ok(per_s);
        }
    }
}

fn say(report: &mut String, name: &str, tuples: usize, outputs: u64, begin: clock::Time) -> f64 {
    let seconds = clock::now().since(begin).as_secs_f64();
    let per_s = tuples as f64 / seconds;
    *report += &format!(
        "{per_s:>10.0} tuples/s, {:>10.0} outputs/s  {name}\n",
        outputs as f64 / seconds
    );
    per_s
}

/// As a task gets them: keys that the source makes, or, for an aggregate, one of a thousand.
fn batches(input: Option<&str>, grouped: bool) -> Result<Vec<Batch>, String> {
    let lines: Vec<Vec<u8>> = match input {
        Some(file) => {
            let content = std::fs::read(file).map_err(|e| format!("{file}: {e}"))?;
            content.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
        }
        None => made(),
    };
    let file = Bytes::from_static(b"bench/input.txt");
    let (mut batches, mut builder) = (vec![], Builder::new());
    for (number, line) in (1..).zip(&lines) {
        match grouped {
            true => builder.push(format!("key{}", number * 7919 % 1000).as_bytes(), line),
            false => {
                let _continues = builder.push_line(&file, number, line);
            }
        }
        if builder.bytes() > BATCH_BYTES {
            batches.push(builder.take());
        }
    }
    batches.push(builder.take());
    Ok(batches)
}

fn made() -> Vec<Vec<u8>> {
    const WORDS: [&str; 8] = [
        "static",
        "fn",
        "let mut",
        "return",
        "self.buffer",
        "u32",
        "match",
        "impl Display",
    ];
    let mut state: u64 = 1;
    let mut random = || {
        // Knuth's MMIX generator.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let line = |_| {
        let mut line = vec![];
        let length = 8 + random() % 50;
        while (line.len() as u64) < length {
            // `static` in one line of thirty or so.
            let word = match random() % 128 {
                0 => WORDS[0],
                n => WORDS[1 + n as usize % 7],
            };
            line.extend_from_slice(word.as_bytes());
            line.push(b' ');
        }
        line.truncate(length as usize);
        line
    };
    (0..MADE_LINES).map(line).collect()
}
