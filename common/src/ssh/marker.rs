//! Where on an SSH session our own words begin.
//!
//! `sshd` starts a command through the user's login shell, which may greet, warn and complain first, on both outputs. So the command
//! says a line that nothing else says, on both, before it becomes the program; what comes before that line is not ours.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// In one line: some shells take no line breaks in quotes. The line break before it ends a greeting without one.
const SAY: &str = r#"printf '\n%s\n' "$0" >&2; printf '\n%s\n' "$0"; exec "$@""#;

/// Longer lines are looked at in pieces.
const PIECE: u64 = 4096;
/// How many of the last lines before the marker are kept, to explain why it does not come.
const KEPT: usize = 5;

/// A line that nothing else says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker(String);

/// The output ended before the marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silent {
    /// The last that was said.
    pub said: Vec<String>,
}

impl Marker {
    pub fn new() -> io::Result<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        Ok(Self(random.iter().map(|b| format!("{b:02x}")).collect()))
    }

    /// A command that says the marker on both outputs and then becomes `words`, a program and its arguments.
    pub fn command(&self, words: impl IntoIterator<Item = String>) -> Vec<String> {
        ["sh", "-c", SAY, &self.0]
            .map(str::to_owned)
            .into_iter()
            .chain(words)
            .collect()
    }

    /// Reads up to the end of the marker, and nothing behind it. Callers bound the time.
    pub async fn pass(&self, from: &mut (impl AsyncBufRead + Unpin)) -> Result<(), Silent> {
        let mut said = std::collections::VecDeque::new();
        loop {
            let mut line = vec![];
            let read = from.take(PIECE).read_until(b'\n', &mut line).await;
            if !matches!(read, Ok(1..)) {
                return Err(Silent { said: said.into() });
            }
            let text = line.trim_ascii_end();
            if text.ends_with(self.0.as_bytes()) {
                return Ok(());
            }
            if !text.is_empty() {
                said.push_back(String::from_utf8_lossy(text).into_owned());
            }
            if said.len() > KEPT {
                said.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::BufReader;
    use tokio::process::Command;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| w.to_string()).collect()
    }

    #[tokio::test]
    async fn all_before_the_marker_is_left_out_and_nothing_behind_it() {
        let marker = Marker::new().unwrap();
        let own = b"our own\nwords".to_vec();
        let flood = vec![b'x'; 100_000];
        for greeting in [&b""[..], b"hello\n", b"no line break", b"\0\xff\n\n\n", &flood] {
            let all = [greeting, b"\n", marker.0.as_bytes(), b"\n", &own].concat();
            let mut from = BufReader::with_capacity(7, &all[..]);
            marker.pass(&mut from).await.unwrap();
            let mut rest = vec![];
            from.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, own);
        }
    }

    #[tokio::test]
    async fn an_output_that_ends_before_says_its_last_lines() {
        let marker = Marker::new().unwrap();
        let text: String = (0..20).map(|n| format!("line {n}\n")).collect();
        let silent = marker.pass(&mut text.as_bytes()).await.unwrap_err();
        assert_eq!(silent.said.last().map(String::as_str), Some("line 19"));
        assert_eq!(silent.said.len(), KEPT);
        let other = Marker::new().unwrap();
        let text = format!("\n{}\n", other.0);
        assert!(marker.pass(&mut text.as_bytes()).await.is_err());
    }

    #[tokio::test]
    async fn the_command_says_it_on_both_outputs_and_becomes_the_program() {
        let marker = Marker::new().unwrap();
        let strange = "a b'c\"d%e$HOME\\n*";
        let command = marker.command(words(&["printf", "%s|", strange, ""]));
        let out = Command::new(&command[0])
            .args(&command[1..])
            .output()
            .await
            .unwrap();
        let (mut stdout, mut stderr) = (&out.stdout[..], &out.stderr[..]);
        marker.pass(&mut stdout).await.unwrap();
        marker.pass(&mut stderr).await.unwrap();
        assert_eq!((stdout, stderr), (format!("{strange}||").as_bytes(), &b""[..]));
    }
}
