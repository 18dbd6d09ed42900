//! One machine's part of a search: reaching it, running grep there, and its lines on their way.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use common::cluster::Node;
use common::spawn;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{mpsc, watch};

use super::args::Search;
use launcher::chain;
use launcher::remote::{Channel, Remote};

/// A machine of which nothing is heard for so long has not answered. A grep that finds nothing reads some 20 GB meanwhile.
const SILENCE: Duration = Duration::from_secs(20);
const BLOCK: usize = 64 * 1024;
const MOST_COMPLAINT: u64 = 4096;
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Its arguments: the log folder, then grep's. Of each log the rotated files come first, the oldest before the others. Bytes are bytes: the C locale is many times as fast, and takes no text for
/// binary.
const SEARCH: &str = r#"cd -- "$1" 2>/dev/null || { echo "its log folder $1 cannot be opened" >&2; exit 3; }
shift
set -- "$@" --
n=$#
for f in *.log; do
    numbers=
    for g in "$f".[0-9] "$f".[0-9][0-9]; do if [ -f "$g" ]; then numbers="${g##*.} $numbers"; fi; done
    for k in $numbers; do set -- "$@" "$f.$k"; done
    if [ -f "$f" ]; then set -- "$@" "$f"; fi
done
[ $# -gt $n ] || exit 1
LC_ALL=C exec grep -a -H "$@""#;

/// What a machine has to say.
pub enum MachineReply {
    /// Whole lines.
    Lines(Vec<u8>),
    /// All is said: whether something was found, or what went wrong.
    End(Result<bool, String>),
}

/// The machine's place in the cluster file, and its words.
pub type Tell = mpsc::Sender<(usize, MachineReply)>;

/// Who has been reached so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct RollCall {
    pub dialling: usize,
    pub reached: usize,
}

/// Searches one machine. One that is this very machine and has no SSH is read directly if there is no SSH anywhere: where
/// other machines let us in, it is one that is down.
pub fn search(
    at: usize,
    node: Node,
    remote: Remote,
    search: Arc<Search>,
    roll: Arc<watch::Sender<RollCall>>,
    tell: Tell,
) -> spawn::Guard {
    spawn::guarded("grep", async move {
        let dialled = remote.connect().await;
        roll.send_modify(|roll| {
            roll.dialling -= 1;
            roll.reached += usize::from(dialled.is_ok());
        });
        let end = match dialled {
            Ok(()) => over_ssh(at, &node, &remote, &search, &tell).await,
            Err(why) => {
                let mut seen = roll.subscribe();
                let seen = seen.wait_for(|roll| roll.dialling == 0 || roll.reached > 0).await;
                let nobody = seen.is_ok_and(|roll| roll.reached == 0);
                if nobody && node.is_here() {
                    directly(at, &node, &search, &tell).await
                } else {
                    Err(format!("did not answer: {why}"))
                }
            }
        };
        let _ = tell.send((at, MachineReply::End(end))).await;
        remote.close().await;
        Ok::<(), std::convert::Infallible>(())
    })
}

fn words(node: &Node, search: &Search) -> Vec<String> {
    let folder = node.log.display().to_string();
    ["-c".into(), SEARCH.into(), "sh".into(), folder]
        .into_iter()
        .chain(search.args.iter().cloned())
        .collect()
}

async fn over_ssh(
    at: usize,
    node: &Node,
    remote: &Remote,
    search: &Search,
    tell: &Tell,
) -> Result<bool, String> {
    let sh = std::iter::once("sh".to_owned());
    let words: Vec<String> = sh.chain(words(node, search)).collect();
    let channel = remote.run(&words).await;
    let Channel {
        child,
        stdin,
        stdout,
        stderr,
    } = channel.map_err(|why| format!("did not answer: {why}"))?;
    drop(stdin);
    let complaint = carry(at, stdout, stderr, tell).await?;
    match tokio::time::timeout(ENDS_WITHIN, child.wait()).await {
        Ok(Ok(status)) => outcome(status.code(), complaint),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(silent()),
    }
}

async fn directly(at: usize, node: &Node, search: &Search, tell: &Tell) -> Result<bool, String> {
    let mut child = tokio::process::Command::new("sh")
        .args(words(node, search))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| e.to_string())?;
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("its output is not piped".into());
    };
    let complaint = carry(at, out, err, tell).await?;
    let status = child.wait().await.map_err(|e| e.to_string())?;
    outcome(status.code(), complaint)
}

fn silent() -> String {
    format!("did not answer for {} s", SILENCE.as_secs())
}

fn outcome(code: Option<i32>, complaint: String) -> Result<bool, String> {
    match code {
        Some(0) => Ok(true),
        Some(1) if complaint.is_empty() => Ok(false),
        code => Err(match (complaint.is_empty(), code) {
            (false, _) => complaint,
            (true, Some(code)) => format!("its grep ended with code {code}"),
            (true, None) => "its grep was ended".into(),
        }),
    }
}

/// Passes whole lines on until the output ends; returns what was said on standard error.
async fn carry(
    at: usize,
    mut out: impl AsyncRead + Unpin,
    err: impl AsyncRead + Unpin,
    tell: &Tell,
) -> Result<String, String> {
    let lines = async {
        let mut block: Vec<u8> = Vec::with_capacity(BLOCK);
        loop {
            block.reserve(BLOCK);
            let read = tokio::time::timeout(SILENCE, out.read_buf(&mut block)).await;
            let n = read.map_err(|_| silent())?.map_err(|e| e.to_string())?;
            let whole = match n {
                0 => block.len(),
                _ => block.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1),
            };
            let rest = block.split_off(whole);
            let lines = std::mem::replace(&mut block, rest);
            // Nobody listens any more: the reader of the output has gone.
            if !lines.is_empty() && tell.send((at, MachineReply::Lines(lines))).await.is_err() || n == 0 {
                return Ok::<(), String>(());
            }
        }
    };
    let complaint = async {
        let (mut text, mut err) = (vec![], err.take(MOST_COMPLAINT));
        // What is there is enough.
        let _ = err.read_to_end(&mut text).await;
        // The rest is thrown away, so that nobody waits for room.
        let _ = tokio::io::copy(&mut err.into_inner(), &mut tokio::io::sink()).await;
        String::from_utf8_lossy(&text).trim().replace('\n', " | ")
    };
    let mut complaint = std::pin::pin!(complaint);
    let mut said = None;
    let mut lines = std::pin::pin!(lines);
    let carried = loop {
        tokio::select! {
            done = &mut lines => break done,
            text = &mut complaint, if said.is_none() => said = Some(text),
        }
    };
    carried?;
    match said {
        Some(text) => Ok(text),
        None => Ok(tokio::time::timeout(ENDS_WITHIN, complaint)
            .await
            .unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_logs_are_searched_the_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "a.log",
            "a.log.1",
            "a.log.2",
            "a.log.10",
            "a.log.2.gz",
            "b c.log",
            "b c.log.1",
            "other",
        ] {
            std::fs::write(dir.path().join(name), "x\n").unwrap();
        }
        let mut sh = std::process::Command::new("sh");
        let sh = sh.args(["-c", SEARCH, "sh"]).arg(dir.path()).args(["-e", "x"]);
        let out = String::from_utf8(sh.output().unwrap().stdout).unwrap();
        let wanted = "a.log.10:x\na.log.2:x\na.log.1:x\na.log:x\nb c.log.1:x\nb c.log:x\n";
        assert_eq!(out, wanted);
    }
}
