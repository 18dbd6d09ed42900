//! The job's output on standard output.

use std::io::{self, IsTerminal};
use std::pin::Pin;
use std::task::{Context, Poll};

use common::shown;
use tokio::io::AsyncWrite;

pub use api::output::{Error, File, First, copy_all, sample};

use crate::progress::Screen;

/// Standard output; on a terminal that also shows the live display, each piece is written while that is away.
pub struct Stdout {
    inner: shown::Stdout,
    beside: Option<Screen>,
}

impl Stdout {
    pub fn new(screen: Screen) -> Self {
        let shares = screen.is_live() && io::stdout().is_terminal();
        Self {
            inner: shown::Stdout::new(),
            beside: shares.then_some(screen),
        }
    }
}

impl AsyncWrite for Stdout {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match &this.beside {
            Some(screen) => screen.aside(|| Pin::new(&mut this.inner).poll_write(cx, bytes)),
            None => Pin::new(&mut this.inner).poll_write(cx, bytes),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
