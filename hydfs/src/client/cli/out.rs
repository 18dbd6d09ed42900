//! Where a command's data go.

use common::output::reader_has_gone;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::client::Error;

/// Standard output, or what stands for it. When its reader has seen enough (`| head`), nothing more is written, which is no error: a
/// command that only prints may end then, and one that does something goes on doing it.
pub struct Out<'a> {
    to: &'a mut (dyn AsyncWrite + Unpin),
    done: bool,
}

impl<'a> Out<'a> {
    pub fn new(to: &'a mut (dyn AsyncWrite + Unpin)) -> Self {
        Self { to, done: false }
    }

    /// Nobody reads what would be written.
    pub fn is_done(&self) -> bool {
        self.done
    }

    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.done {
            return Ok(());
        }
        let written = self.to.write_all(bytes).await;
        self.judge(written)
    }

    pub async fn flush(&mut self) -> Result<(), Error> {
        if self.done {
            return Ok(());
        }
        let flushed = self.to.flush().await;
        self.judge(flushed)
    }

    fn judge(&mut self, written: std::io::Result<()>) -> Result<(), Error> {
        match written {
            Err(error) if reader_has_gone(&error) => self.done = true,
            Err(error) => {
                return Err(Error::Local {
                    what: "cannot write to standard output".into(),
                    why: error.to_string(),
                });
            }
            Ok(()) => {}
        }
        Ok(())
    }
}
