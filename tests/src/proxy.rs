//! A TCP proxy that can stop passing on what one side says, without closing anything: a network that works one way only.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

/// Runs until the process ends: connections live on threads of their own.
pub struct Proxy {
    pub addr: SocketAddr,
    dropped: Arc<AtomicU64>,
    connections: Arc<Mutex<Vec<Arc<AtomicBool>>>>,
}

impl Proxy {
    /// Every connection to `on` (port 0: any) goes to `to`.
    pub fn start(on: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(on)?;
        let proxy = Self {
            addr: listener.local_addr()?,
            dropped: Arc::default(),
            connections: Arc::default(),
        };
        let (dropped, connections) = (proxy.dropped.clone(), proxy.connections.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(to) else { continue };
                let muted = Arc::new(AtomicBool::new(false));
                connections
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(muted.clone());
                let _ = join(near, far, muted, dropped.clone());
            }
        });
        Ok(proxy)
    }

    /// From now on nothing that comes in on the connections that are there now goes on; the other direction does. Nothing is
    /// closed. How many connections.
    pub fn mute(&self) -> usize {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.iter().for_each(|c| c.store(true, Ordering::SeqCst));
        connections.len()
    }

    /// Bytes that were not passed on.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::SeqCst)
    }
}

fn join(near: TcpStream, far: TcpStream, muted: Arc<AtomicBool>, dropped: Arc<AtomicU64>) -> Result<()> {
    let (mut from_near, mut to_far) = (near.try_clone()?, far.try_clone()?);
    let up = muted.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(n) = from_near.read(&mut buffer)
            && n > 0
        {
            if up.load(Ordering::SeqCst) {
                dropped.fetch_add(n as u64, Ordering::SeqCst);
            } else if to_far.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = to_far.shutdown(Shutdown::Both);
    });
    let (mut from_far, mut to_near) = (far, near);
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(n) = from_far.read(&mut buffer)
            && n > 0
            && to_near.write_all(&buffer[..n]).is_ok()
        {}
        // On a muted connection the other side's end is not heard either.
        if !muted.load(Ordering::SeqCst) {
            let _ = to_near.shutdown(Shutdown::Both);
        }
    });
    Ok(())
}
