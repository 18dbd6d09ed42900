//! Listens to the datagrams of this machine, as they travel over loopback. Needs root.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::Result;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

use crate::{PATIENCE, skip, wait_for};

/// A datagram as it was sent.
#[derive(Debug, Clone)]
pub struct Datagram {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub bytes: Vec<u8>,
}

impl Datagram {
    /// Out of an IPv4 packet.
    fn parse(packet: &[u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let addr = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        let port = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
        Some(Self {
            from: SocketAddrV4::new(addr(12)?, port(header)?),
            to: SocketAddrV4::new(addr(16)?, port(header + 2)?),
            bytes: packet.get(header + 8..)?.to_vec(),
        })
    }
}

/// All datagrams to that port that are sent within `time`. `None`: this machine does not let us listen; says why.
pub fn datagrams(port: u16, time: Duration) -> Result<Option<Vec<Datagram>>> {
    let raw = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_NONBLOCK,
        SockProtocol::Udp,
    );
    let raw: OwnedFd = match raw {
        Ok(raw) => raw,
        Err(error) => {
            skip(format_args!("cannot listen to datagrams here: {error}"));
            return Ok(None);
        }
    };
    let (mut heard, mut buffer, end) = (vec![], vec![0; 65536], crate::now() + time);
    wait_for("the listening to end", time + PATIENCE, || {
        while let Ok(len) = recv(raw.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            heard.extend(Datagram::parse(&buffer[..len]).filter(|d| d.to.port() == port));
        }
        Ok((crate::now() >= end).then_some(()))
    })?;
    Ok(Some(heard))
}
