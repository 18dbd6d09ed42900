//! Asking a program what it is, before a job is planned.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use common::clock;
use protocol::control::{OpKind, Protocol};
use tokio::io::AsyncReadExt;

use super::child::Group;
use super::stderr::Drain;
use crate::operator::{Error, quoted};

/// How long a program may take to say what it is, unless somebody says otherwise: some import for many seconds.
pub const DESCRIBE_WITHIN: Duration = Duration::from_secs(30);
/// Who waits is told why after the first, and then after each of the second.
const SAY_AFTER: Duration = Duration::from_secs(2);
const SAY_EVERY: Duration = Duration::from_secs(5);
/// More than any description.
const LONGEST: u64 = 64 << 10;

/// Environment variable that asks a program what it is.
pub const DESCRIBE: &str = "RAINSTORM_DESCRIBE";
/// How a description begins; the version follows.
pub const MAGIC: &str = "rainstorm-operator/";

/// What a program says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub kind: OpKind,
    pub protocol: Protocol,
    /// It can save its state and take it in again.
    pub snapshot: bool,
    /// Its output depends on nothing but its input.
    pub deterministic: bool,
    /// It wants the tuples' keys.
    pub keys: bool,
}

/// The line that a program prints.
impl std::fmt::Display for Description {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let yes = |yes| if yes { "yes" } else { "no" };
        let protocol = match self.protocol {
            Protocol::Text => "text",
            Protocol::Batch => "batch",
        };
        write!(
            f,
            "{MAGIC}1 kind={} protocol={protocol} snapshot={} deterministic={} keys={}",
            self.kind,
            yes(self.snapshot),
            yes(self.deterministic),
            yes(self.keys)
        )
    }
}

/// Runs the program with nothing to read and `RAINSTORM_DESCRIBE=1`. `None`: it said nothing, as programs do that know
/// nothing of it; they speak the text protocol. `waiting` is given a word for people while it takes long.
pub async fn describe(
    exe: &Path,
    args: &[String],
    within: Duration,
    waiting: impl Fn(&str),
) -> Result<Option<Description>, Error> {
    let env = [(DESCRIBE.to_owned(), "1".to_owned())];
    let mut group = Group::start(exe, args, &env, None, false).await?;
    let broken = || Error::fatal("the operator's standard streams are not piped");
    let stdout = group.child.stdout.take().ok_or_else(broken)?;
    let mut stderr = Drain::start(group.child.stderr.take().ok_or_else(broken)?, |_| {});
    let mut said = vec![];
    let mut stdout = stdout.take(LONGEST);
    let run = async {
        let mut read = pin!(stdout.read_to_end(&mut said));
        let read = tokio::select! {
            biased;
            read = &mut read => read?,
            // What it left behind may have held the stream open, and is gone now.
            status = group.wait() => {
                read.await?;
                return status;
            }
        };
        // One that says too much is not waited for: it may be blocked on saying more.
        if read as u64 == LONGEST {
            group.kill();
        }
        group.wait().await
    };
    let name = exe.display();
    let began = clock::now();
    let say = async {
        tokio::time::sleep(SAY_AFTER).await;
        loop {
            let (waited, most) = (clock::now().since(began).as_secs(), within.as_secs_f32());
            waiting(&format!("asking {name} what it is: {waited} s, at most {most} s"));
            tokio::time::sleep(SAY_EVERY).await;
        }
    };
    let status = tokio::time::timeout(within, async {
        tokio::select! {
            status = run => status,
            never = say => never,
        }
    });
    let status = status.await;
    group.kill();
    let failed = async |what: String, stderr: &mut Drain| {
        Err(Error {
            stderr: stderr.last_lines().await,
            ..Error::fatal(what)
        })
    };
    let status = match status {
        Ok(Ok(status)) => status,
        Ok(Err(e)) => {
            return failed(
                format!("the operator {name} cannot be read from: {e}"),
                &mut stderr,
            )
            .await;
        }
        Err(_) => {
            let what = format!(
                "the operator {name} did not end within {} s, asked what it is; an operator must end at the end of its standard \
                 input. If it only takes long to start, give it longer: --describe-timeout SECONDS",
                within.as_secs_f32()
            );
            return failed(what, &mut stderr).await;
        }
    };
    if said.is_empty() {
        // The shell's and env's ways to say that there is nothing to run.
        if matches!(status.code(), Some(126 | 127)) {
            return failed(format!("the operator {name} does not run: {status}"), &mut stderr).await;
        }
        if !status.success() {
            let stderr = stderr.last_lines().await;
            tracing::warn!(exe = %name, %status, ?stderr, "OPERATOR_PROBE failed on an empty input");
        }
        return Ok(None);
    }
    match parse(&said) {
        Ok(description) => Ok(Some(description)),
        Err(why) => {
            failed(
                format!("the operator {name}, asked what it is, {why}"),
                &mut stderr,
            )
            .await
        }
    }
}

/// Reads `rainstorm-operator/1 kind=... protocol=... snapshot=yes|no deterministic=yes|no keys=yes|no`. Names that it
/// does not know are for later versions; the last three may be missing (no; yes; yes).
fn parse(said: &[u8]) -> Result<Description, String> {
    let text = String::from_utf8_lossy(said);
    let mut lines = text.lines();
    let line = lines.next().unwrap_or_default();
    let Some(rest) = line.strip_prefix(MAGIC) else {
        let shown = quoted(line.as_bytes());
        return Err(format!(
            "printed `{shown}` without having read a tuple; an operator prints nothing but answers"
        ));
    };
    if let Some(more) = lines.next() {
        return Err(format!(
            "printed more than its description: `{}`",
            quoted(more.as_bytes())
        ));
    }
    let mut words = rest.split_ascii_whitespace();
    match words.next() {
        Some("1") => {}
        other => {
            return Err(format!(
                "speaks version {} of the description, 1 is known",
                other.unwrap_or("?")
            ));
        }
    }
    let (mut kind, mut protocol) = (None, None);
    let (mut snapshot, mut deterministic, mut keys) = (false, true, true);
    let yes_no = |name, value| match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("says {name}={value}, which should be yes or no")),
    };
    for word in words {
        match word
            .split_once('=')
            .ok_or_else(|| format!("says `{word}`, which should be name=value"))?
        {
            ("kind", "filter") => kind = Some(OpKind::Filter),
            ("kind", "transform") => kind = Some(OpKind::Transform),
            ("kind", "aggregate") => kind = Some(OpKind::Aggregate),
            ("kind", k) => return Err(format!("says kind={k}; there are filter, transform, aggregate")),
            ("protocol", "text") => protocol = Some(Protocol::Text),
            ("protocol", "batch") => protocol = Some(Protocol::Batch),
            ("protocol", p) => return Err(format!("says protocol={p}; there are text, batch")),
            ("snapshot", v) => snapshot = yes_no("snapshot", v)?,
            ("deterministic", v) => deterministic = yes_no("deterministic", v)?,
            ("keys", v) => keys = yes_no("keys", v)?,
            _ => {}
        }
    }
    let kind = kind.ok_or("does not say its kind (kind=filter|transform|aggregate)")?;
    let protocol = protocol.ok_or("does not say its protocol (protocol=text|batch)")?;
    if protocol == Protocol::Text && snapshot {
        return Err("says snapshot=yes, which the text protocol has no words for".to_owned());
    }
    if kind == OpKind::Aggregate && !keys {
        return Err("says keys=no, but an aggregate needs the keys".to_owned());
    }
    Ok(Description {
        kind,
        protocol,
        snapshot,
        deterministic,
        keys,
    })
}

#[cfg(test)]
mod tests;
