//! The cluster's shared secret. It is read from a file or from standard input, never from an argument, and never printed.

use std::fmt;
use std::io::{self, BufRead};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot read the secret file {path}: {source}; make one with `demo/cluster.sh up`, or by hand: `head -c 32 /dev/urandom | base64 > {path} && chmod 600 {path}`"
    )]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the secret file {path} can be read by others (mode {mode:o}); type: chmod 600 {path}")]
    Mode { path: PathBuf, mode: u32 },
    #[error(
        "the secret in {path} has {len} bytes and needs at least 16; make one: `head -c 32 /dev/urandom | base64 > {path}`"
    )]
    Short { path: PathBuf, len: usize },
}

/// A 32-byte key derived from the secret's text. Keys for different uses are derived from it, so none is used twice.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret([u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    pub fn from_text(text: &[u8]) -> Self {
        Self(blake3::derive_key(
            "rainstorm 2026 cluster secret",
            text.trim_ascii(),
        ))
    }

    /// Reads the file; refuses one that others can read.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read {
            path: path.into(),
            source,
        };
        let text = std::fs::read(path).map_err(read)?;
        let mode = std::fs::metadata(path).map_err(read)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::Mode {
                path: path.into(),
                mode,
            });
        }
        let len = text.trim_ascii().len();
        if len < 16 {
            return Err(Error::Short {
                path: path.into(),
                len,
            });
        }
        Ok(Self::from_text(&text))
    }

    /// A key for one use, such as `"hello"` or `"datagram"`.
    pub fn key(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(&format!("rainstorm 2026 {purpose}"), &self.0)
    }

    /// For handing the secret to a worker on its standard input.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The first line of standard input, or what stands for it; `None`: it holds no secret.
    pub fn from_line(mut input: impl BufRead) -> io::Result<Option<Self>> {
        let mut line = String::new();
        input.read_line(&mut line)?;
        Ok(Self::from_hex(&line))
    }

    pub fn from_hex(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut key = [0; 32];
        for (byte, i) in key.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[i..i + 2], 16).ok()?;
        }
        Some(Self(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_is_not_shown_by_debug() {
        let secret = Secret::from_text(b"a secret of some length\n");
        assert_eq!(Secret::from_hex(&secret.to_hex()).unwrap(), secret);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert!(Secret::from_hex("zz").is_none());
        assert_eq!(secret, Secret::from_text(b"a secret of some length"));
    }

    #[test]
    fn readable_by_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "0123456789abcdef0123").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Secret::load(&path), Err(Error::Mode { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Secret::load(&path).is_ok());
    }
}
