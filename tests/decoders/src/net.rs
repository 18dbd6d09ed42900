//! What arrives before anybody has proven anything, and what `memberd` reads.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use common::cluster::Security;
use common::ids::NodeName;
use common::net::datagram::{self, Opener, Sealer};
use common::net::frame::{self, MAX_FRAME};
use common::net::hello::{self, Hello, Identity, Role};
use common::secret::Secret;
use memberd::State;
use memberd::state::Fact;
use memberd::wire::{Body, Message, Reply, Request, TableExchange};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Frames come in pieces: the first byte says how long a piece is.
pub fn frame(data: &[u8]) {
    let Some((&step, data)) = data.split_first() else {
        return;
    };
    let mut buffer = BytesMut::new();
    let mut taken = 0;
    for piece in data.chunks(usize::from(step).max(1)) {
        buffer.extend_from_slice(piece);
        while let Ok(Some(frame)) = frame::cut(&mut buffer, MAX_FRAME) {
            taken += 4 + frame.len();
            let _ = frame::decode::<Hello>(&frame);
        }
    }
    assert_eq!(taken + buffer.len(), data.len(), "bytes were lost or read twice");
}

pub fn frame_seeds() -> Vec<Vec<u8>> {
    let hello = frame::encode(&a_hello()).expect("a hello is representable");
    let framed = [(hello.len() as u32).to_be_bytes().as_slice(), &hello].concat();
    vec![
        [&[7], framed.as_slice(), &[0; 4], &framed].concat(),
        [&[255], framed.as_slice()].concat(),
        vec![1, 0, 0, 0, 0],
        [&[9], u32::MAX.to_be_bytes().as_slice(), b"xyz"].concat(),
    ]
}

fn a_hello() -> Hello {
    Hello {
        role: Role::Data,
        who: "worker s1t0".into(),
        node: NodeName::new("n1").ok(),
    }
}

fn identity() -> Identity {
    Identity {
        who: "worker".into(),
        node: None,
        secret: secret(),
        security: Security::Encrypt,
    }
}

fn secret() -> Secret {
    Secret::from_text(b"the secret of the fuzz targets")
}

/// What was read comes from memory; what is written is kept.
struct Canned<'a> {
    read: &'a [u8],
    written: Vec<u8>,
}

impl AsyncRead for Canned<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.read).poll_read(context, into)
    }
}

impl AsyncWrite for Canned<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: RefCell<tokio::runtime::Runtime> = RefCell::new(
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O"),
        );
    }
    RUNTIME.with_borrow(|runtime| runtime.block_on(future))
}

/// Both sides of the hello read it as a stranger's bytes; its content as somebody's who knows the secret.
pub fn hello(data: &[u8]) {
    let canned = || Canned {
        read: data,
        written: vec![],
    };
    let (mut stream, mut rest) = (canned(), BytesMut::new());
    let answered = now(hello::answer(&mut stream, &mut rest, &identity()));
    assert!(answered.is_err(), "a hello without a fresh proof was taken");
    let (mut stream, mut rest) = (canned(), BytesMut::new());
    let greeted = now(hello::greet(&mut stream, &mut rest, &identity(), Role::Control));
    assert!(greeted.is_err(), "an answer to another hello was taken");
    if let Ok(hello) = frame::decode::<Hello>(data) {
        let again = frame::encode(&hello).expect("what was decoded is representable");
        assert_eq!(frame::decode::<Hello>(&again).ok(), Some(hello));
    }
}

pub fn hello_seeds() -> Vec<Vec<u8>> {
    let mut dialler = Canned {
        read: &[],
        written: vec![],
    };
    let _ = now(hello::greet(
        &mut dialler,
        &mut BytesMut::new(),
        &identity(),
        Role::Data,
    ));
    let mut acceptor = Canned {
        read: &dialler.written,
        written: vec![],
    };
    let _ = now(hello::answer(&mut acceptor, &mut BytesMut::new(), &identity()));
    vec![
        [dialler.written.as_slice(), &[0, 16], &[0; 16]].concat(),
        acceptor.written,
        frame::encode(&a_hello()).expect("a hello is representable"),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ]
}

/// As a stranger's, and with the right MAC at its end: numbers and names are then read.
pub fn datagram(data: &[u8]) {
    let mut opener = Opener::new(&secret());
    let _ = opener.open(data);
    let mut sealed = data.to_vec();
    sealed.extend_from_slice(&blake3::keyed_hash(&secret().key("datagram"), data).as_bytes()[..16]);
    if let Ok((_, payload)) = opener.open(&sealed) {
        let _ = Message::decode(payload);
        assert_eq!(opener.open(&sealed), Err(datagram::Error::Replay));
    }
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

pub fn datagram_seeds() -> Vec<Vec<u8>> {
    let mut sealer = Sealer::new(&secret(), node("n1"), 7);
    let mut seeds: Vec<_> = messages().iter().map(|m| sealer.seal(m)).collect();
    // Without the MAC, which the target adds.
    let bare: Vec<_> = seeds.iter().map(|s| s[..s.len() - 16].to_vec()).collect();
    seeds.extend(bare);
    seeds
}

fn messages() -> Vec<Vec<u8>> {
    let fact = |name, incarnation, state| Fact {
        name: node(name),
        incarnation,
        state,
    };
    let bodies = [
        Body::Ping { seq: 1 },
        Body::PingReq {
            seq: 2,
            target: node("n3"),
        },
        Body::Ack {
            seq: u64::MAX,
            about: node("n2"),
        },
        Body::Nack { seq: 300 },
        Body::Tell,
        Body::Beats {
            base: 1 << 40,
            beats: vec![(node("n1"), 0), (node("n2"), 70_000)],
        },
    ];
    let message = |body| Message {
        to: node("n2"),
        body,
        facts: vec![
            fact("n1", 1_764_000_000_000, State::Alive),
            fact("n3", 9, State::Suspect),
            fact("n4", 8, State::Left),
        ],
        stamp: None,
        configuration: None,
    };
    let encoded = bodies.into_iter().map(|b| message(b).encode());
    encoded.map(|m| m.expect("a message is representable")).collect()
}

/// What daemons and programs say to `memberd`, once the secret is proven.
pub fn membership(data: &[u8]) {
    if let Ok(message) = Message::decode(data)
        && let Ok(again) = message.encode()
    {
        assert_eq!(Message::decode(&again).ok(), Some(message));
    }
    let _ = frame::decode::<TableExchange>(data);
    let _ = frame::decode::<Request>(data);
    let _ = frame::decode::<Reply>(data);
}

pub fn membership_seeds() -> Vec<Vec<u8>> {
    let encode = |m: Result<Vec<u8>, common::net::Error>| m.expect("a message is representable");
    let table = TableExchange {
        facts: vec![Fact {
            name: node("n1"),
            incarnation: 5,
            state: State::Failed,
        }],
        configuration: None,
    };
    let change = Request::Change(vec![("protocol".into(), "gossip".into())]);
    let mut seeds = messages();
    seeds.push(encode(frame::encode(&table)));
    seeds.push(encode(frame::encode(&change)));
    seeds.push(encode(frame::encode(&Reply::Members(vec![]))));
    seeds.push(encode(frame::encode(&Reply::Refused("why".into()))));
    seeds
}
