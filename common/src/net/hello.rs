//! The hello that opens every TCP connection.
//!
//! ```text
//! dialler                                       acceptor
//!   "RNSTRM" | len | Noise e, psk, {Hello}  --->            knows the secret, or closes
//!                  <--- "RNSTRM" | len | Noise e, ee, {Hello}
//!   len | first transport message, empty    --->            fresh: a replayed first message ends here
//! ```
//!
//! The pattern is `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s` (Noise Protocol Framework, revision 34, section 9) with the
//! cluster secret as the pre-shared key. Nothing else is read before both sides have proven that they know it. The
//! magic's last byte is the protocol's version.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Error;
use super::frame::{self, Receiver, Sender, Session};
use crate::cluster::Security;
use crate::ids::NodeName;
use crate::secret::Secret;

const MAGIC: [u8; 6] = *b"RNSTR\x03";
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// A hello names a program and a node; it has no reason to be longer.
const MAX_HELLO: usize = 1024;
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// What a connection is for. The acceptor refuses roles that it does not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// memberd to memberd: join, state exchange.
    Join,
    /// A local program follows the membership.
    Subscribe,
    /// hydfsd to hydfsd.
    HydfsPeer,
    /// A client of HyDFS.
    HydfsClient,
    /// Worker to leader.
    Control,
    /// Operator's console to leader.
    Console,
    /// Standby leader to leader.
    Standby,
    /// Worker to worker.
    Data,
}

/// Who speaks, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub role: Role,
    /// For people: a program and a pid, or a task.
    pub who: String,
    pub node: Option<NodeName>,
}

/// What a program needs to open or accept connections.
#[derive(Debug, Clone)]
pub struct Identity {
    pub who: String,
    pub node: Option<NodeName>,
    pub secret: Secret,
    pub security: Security,
}

impl Identity {
    fn hello(&self, role: Role) -> Hello {
        Hello {
            role,
            who: self.who.clone(),
            node: self.node.clone(),
        }
    }
}

/// A connection whose other side has proven that it knows the secret.
pub struct Connection {
    pub peer: Hello,
    pub addr: SocketAddr,
    pub tx: Sender,
    pub rx: Receiver,
}

/// Connects to `addr` and says hello, within [`TIMEOUT`].
pub async fn dial(addr: SocketAddr, me: &Identity, role: Role) -> Result<Connection, Error> {
    let shake = async {
        let stream = TcpStream::connect(addr)
            .await
            .map_err(|source| Error::Connect { addr, source })?;
        initiate(stream, addr, me, role).await
    };
    tokio::time::timeout(TIMEOUT, shake)
        .await
        .map_err(|_| Error::Timeout)?
}

/// Answers the hello of an accepted stream, within [`TIMEOUT`].
pub async fn accept(stream: TcpStream, addr: SocketAddr, me: &Identity) -> Result<Connection, Error> {
    tokio::time::timeout(TIMEOUT, respond(stream, addr, me))
        .await
        .map_err(|_| Error::Timeout)?
}

async fn initiate(
    mut stream: TcpStream,
    addr: SocketAddr,
    me: &Identity,
    role: Role,
) -> Result<Connection, Error> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::new();
    let (peer, session) = greet(&mut stream, &mut buffer, me, role).await?;
    Ok(connection(stream, addr, peer, buffer, session, me.security))
}

/// The dialler's side of the hello, over any stream. What came behind the hello is left in `buffer`.
pub async fn greet(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    buffer: &mut BytesMut,
    me: &Identity,
    role: Role,
) -> Result<(Hello, Session), Error> {
    let key = me.secret.key("hello");
    let mut noise = builder(&key)?.build_initiator().map_err(|_| Error::Secret)?;

    let first = write(&mut noise, &frame::encode(&me.hello(role))?)?;
    stream.write_all(&[MAGIC.as_slice(), &first].concat()).await?;
    read_magic(stream, buffer).await?;
    let answer = read_piece(stream, buffer).await?;
    let peer = read(&mut noise, &answer)?;
    let session: Session = Arc::new(noise.into_stateless_transport_mode().map_err(|_| Error::Secret)?);
    let mut proof = [0; 16];
    let len = session
        .write_message(0, &[], &mut proof)
        .map_err(|_| Error::Secret)?;
    stream
        .write_all(&[&(len as u16).to_be_bytes(), &proof[..len]].concat())
        .await?;
    Ok((peer, session))
}

async fn respond(mut stream: TcpStream, addr: SocketAddr, me: &Identity) -> Result<Connection, Error> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::new();
    let (peer, session) = answer(&mut stream, &mut buffer, me).await?;
    Ok(connection(stream, addr, peer, buffer, session, me.security))
}

/// The acceptor's side of the hello, over any stream. What came behind the hello is left in `buffer`.
pub async fn answer(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    buffer: &mut BytesMut,
    me: &Identity,
) -> Result<(Hello, Session), Error> {
    let key = me.secret.key("hello");
    let mut noise = builder(&key)?.build_responder().map_err(|_| Error::Secret)?;

    read_magic(stream, buffer).await?;
    let first = read_piece(stream, buffer).await?;
    let peer: Hello = read(&mut noise, &first)?;
    let answer = write(&mut noise, &frame::encode(&me.hello(peer.role))?)?;
    stream.write_all(&[MAGIC.as_slice(), &answer].concat()).await?;
    let session: Session = Arc::new(noise.into_stateless_transport_mode().map_err(|_| Error::Secret)?);
    let proof = read_piece(stream, buffer).await?;
    session
        .read_message(0, &proof, &mut [0; 16])
        .map_err(|_| Error::Secret)?;
    Ok((peer, session))
}

fn builder(key: &[u8; 32]) -> Result<snow::Builder<'_>, Error> {
    let pattern = PATTERN.parse().map_err(|_| Error::Secret)?;
    snow::Builder::new(pattern)
        .psk(0, key)
        .and_then(|b| b.prologue(&MAGIC))
        .map_err(|_| Error::Secret)
}

fn connection(
    stream: TcpStream,
    addr: SocketAddr,
    peer: Hello,
    rest: BytesMut,
    session: Session,
    security: Security,
) -> Connection {
    let session = (security == Security::Encrypt).then_some(session);
    let (read, write) = stream.into_split();
    Connection {
        peer,
        addr,
        tx: Sender::new(write, session.clone()),
        rx: Receiver::new(read, rest, session),
    }
}

fn write(noise: &mut snow::HandshakeState, payload: &[u8]) -> Result<Vec<u8>, Error> {
    if payload.len() > MAX_HELLO - 64 {
        return Err(Error::TooLong {
            len: payload.len(),
            most: MAX_HELLO - 64,
        });
    }
    let mut out = vec![0; MAX_HELLO + 2];
    let len = noise
        .write_message(payload, &mut out[2..])
        .map_err(|_| Error::Secret)?;
    out[..2].copy_from_slice(&(len as u16).to_be_bytes());
    out.truncate(len + 2);
    Ok(out)
}

fn read(noise: &mut snow::HandshakeState, message: &[u8]) -> Result<Hello, Error> {
    let mut payload = vec![0; MAX_HELLO];
    let len = noise
        .read_message(message, &mut payload)
        .map_err(|_| Error::Secret)?;
    frame::decode(&payload[..len])
}

async fn fill(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut, len: usize) -> Result<(), Error> {
    while buffer.len() < len {
        if stream.read_buf(buffer).await? == 0 {
            // A side that cannot verify the other just closes.
            return Err(Error::Secret);
        }
    }
    Ok(())
}

async fn read_magic(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Result<(), Error> {
    fill(stream, buffer, MAGIC.len()).await?;
    let mut got = [0; 6];
    got.copy_from_slice(&buffer[..6]);
    if got != MAGIC {
        return Err(Error::Magic { got });
    }
    buffer.advance(6);
    Ok(())
}

async fn read_piece(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Result<BytesMut, Error> {
    fill(stream, buffer, 2).await?;
    let len = u16::from_be_bytes([buffer[0], buffer[1]]) as usize;
    if len > MAX_HELLO {
        return Err(Error::TooLong { len, most: MAX_HELLO });
    }
    fill(stream, buffer, 2 + len).await?;
    buffer.advance(2);
    Ok(buffer.split_to(len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn identity(secret: &str, security: Security) -> Identity {
        Identity {
            who: "test".into(),
            node: None,
            secret: Secret::from_text(secret.as_bytes()),
            security,
        }
    }

    async fn pair(a: Identity, b: Identity) -> (Result<Connection, Error>, Result<Connection, Error>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = async {
            let (stream, from) = listener.accept().await.unwrap();
            accept(stream, from, &b).await
        };
        tokio::join!(dial(addr, &a, Role::Data), server)
    }

    #[tokio::test]
    async fn frames_of_every_size_pass_in_the_clear_and_encrypted() {
        for security in [Security::Auth, Security::Encrypt] {
            let (a, b) = pair(
                identity("right secret", security),
                identity("right secret", security),
            )
            .await;
            let (mut a, mut b) = (a.unwrap(), b.unwrap());
            assert_eq!(b.peer.role, Role::Data);
            let sizes = [0usize, 1, 100, 20_000, 65_519, 65_520, 1 << 20];
            let send = async {
                for n in sizes {
                    a.tx.feed_frame(vec![n as u8; n]).await.unwrap();
                }
                a.tx.flush().await.unwrap();
            };
            let recv = async {
                for n in sizes {
                    assert_eq!(b.rx.recv_frame().await.unwrap().unwrap(), vec![n as u8; n], "{n}");
                }
            };
            tokio::join!(send, recv);
            drop(a);
            assert!(b.rx.recv_frame().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn a_wrong_secret_is_refused_on_both_sides() {
        let auth = Security::Auth;
        let (a, b) = pair(identity("right secret", auth), identity("wrong secret", auth)).await;
        assert!(matches!(a, Err(Error::Secret)));
        assert!(matches!(b, Err(Error::Secret)));
    }

    async fn raw(bytes: &[u8]) -> Result<Connection, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut stranger = TcpStream::connect(addr).await.unwrap();
        stranger.write_all(bytes).await.unwrap();
        stranger.shutdown().await.unwrap();
        let (stream, from) = listener.accept().await.unwrap();
        accept(stream, from, &identity("right secret", Security::Auth)).await
    }

    #[tokio::test]
    async fn strangers_and_replays_get_nowhere() {
        assert!(matches!(
            raw(b"GET / HTTP/1.1\r\n\r\n").await,
            Err(Error::Magic { .. })
        ));
        assert!(matches!(
            raw(b"RNSTR\x03\xff\xff").await,
            Err(Error::TooLong { .. })
        ));
        // A recorded first message, sent again by somebody who does not know the secret.
        let me = identity("right secret", Security::Auth);
        let key = me.secret.key("hello");
        let mut noise = builder(&key).unwrap().build_initiator().unwrap();
        let first = write(&mut noise, &frame::encode(&me.hello(Role::Data)).unwrap()).unwrap();
        let replay = [
            MAGIC.as_slice(),
            &first,
            &16u16.to_be_bytes(),
            &[0; 16],
            b"\0\0\0\x01x",
        ]
        .concat();
        assert!(matches!(raw(&replay).await, Err(Error::Secret)));
    }

    #[tokio::test]
    async fn a_huge_length_is_refused_before_allocation() {
        let (a, b) = pair(
            identity("right secret", Security::Auth),
            identity("right secret", Security::Auth),
        )
        .await;
        let (mut a, mut b) = (a.unwrap(), b.unwrap());
        assert!(matches!(
            a.tx.feed_frame(vec![0; frame::MAX_FRAME + 1]).await,
            Err(Error::TooLong { .. })
        ));
        drop(b.rx.recv_frame());
        let (mut a2, mut b2) = (a, b);
        a2.tx.raw(b"\xff\xff\xff\xffxxxx").await;
        assert!(matches!(b2.rx.recv_frame().await, Err(Error::TooLong { .. })));
    }
}
