//! Drivers over real sockets, on loopback addresses and ports of their own.

use std::net::SocketAddr;

use common::clock;
use common::cluster::Security;
use common::net::datagram::{Opener, Sealer};
use common::net::{self, Identity, Role};
use common::secret::Secret;
use memberd::client::{self, Follower, Subscription};
use memberd::driver::{Driver, Error};
use memberd::state::Fact;
use memberd::wire::{Body, Message};
use memberd::{Member, State, Update};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::BOUND;
use crate::net::{Net, name};

impl Net {
    fn addr(&self, n: &str) -> SocketAddr {
        self.cluster.node(n).unwrap().at(self.cluster.ports.membership)
    }

    async fn follow(&self, n: &str) -> Watched {
        let subscription = client::subscribe(&self.cluster, &self.me(), &name(n))
            .await
            .unwrap();
        Watched {
            subscription,
            members: vec![],
        }
    }
}

/// A subscription and what it has said.
struct Watched {
    subscription: Subscription,
    members: Vec<Member>,
}

impl Watched {
    /// Reads updates until `n` is `state`, and returns its entry.
    async fn until(&mut self, n: &str, state: State) -> Member {
        let wait = async {
            loop {
                if let Some(member) = self
                    .members
                    .iter()
                    .find(|m| m.name.as_str() == n && m.state == state)
                {
                    return member.clone();
                }
                match self.subscription.next().await.unwrap() {
                    Update::Snapshot(members) => self.members = members,
                    Update::Change(member) => {
                        self.members.retain(|m| m.name != member.name);
                        self.members.push(member);
                    }
                }
            }
        };
        timeout(BOUND, wait)
            .await
            .unwrap_or_else(|_| panic!("{n} does not become {state}"))
    }
}

async fn scenario_of_three(first: u8, security: &str) {
    let net = Net::new(first, security);
    let _n1 = net.start("n1").await;
    let n2 = net.start("n2").await;
    let n3 = net.start("n3").await;
    let (mut at_1, mut at_2) = (net.follow("n1").await, net.follow("n2").await);
    for n in ["n1", "n2", "n3"] {
        at_1.until(n, State::Alive).await;
        at_2.until(n, State::Alive).await;
    }
    let old = at_1.until("n3", State::Alive).await;
    assert_eq!(old.addr, net.addr("n3").ip());

    let crash = clock::now();
    drop(n3);
    at_1.until("n3", State::Suspect).await;
    at_1.until("n3", State::Failed).await;
    at_2.until("n3", State::Failed).await;
    println!("failed at both after {:?}", clock::now().since(crash));
    let listed = client::list(&net.cluster, &net.me(), &name("n2")).await.unwrap();
    let states: Vec<_> = listed.iter().map(|m| (m.name.as_str(), m.state)).collect();
    assert_eq!(
        states,
        [("n1", State::Alive), ("n2", State::Alive), ("n3", State::Failed)]
    );

    let _n3 = net.start("n3").await;
    let new = at_1.until("n3", State::Alive).await;
    assert!(new.incarnation > old.incarnation);
    let itself = client::list_self(&net.cluster, &net.me(), &name("n3"))
        .await
        .unwrap();
    assert_eq!((itself.name.as_str(), itself.state), ("n3", State::Alive));

    client::leave(&net.cluster, &net.me(), &name("n2")).await.unwrap();
    at_1.until("n2", State::Left).await;
    let mut at_3 = net.follow("n3").await;
    at_3.until("n2", State::Left).await;
    // Its subscribers see it out; then the daemon is gone.
    at_2.until("n2", State::Left).await;
    let ended = async { while at_2.subscription.next().await.is_ok() {} };
    timeout(BOUND, ended).await.expect("the leaver's connections end");
    drop(n2);
    assert!(client::list(&net.cluster, &net.me(), &name("n2")).await.is_err());
}

#[tokio::test]
async fn three_nodes_see_a_crash_a_return_and_a_goodbye() {
    scenario_of_three(10, "auth").await;
}

#[tokio::test]
async fn the_same_with_encrypted_connections() {
    scenario_of_three(20, "encrypt").await;
}

/// Plays n2 by hand against a real n1.
#[tokio::test]
async fn foreign_altered_replayed_and_misdirected_datagrams_are_refused() {
    let net = Net::new(30, "auth");
    let _n1 = net.start("n1").await;
    let socket = UdpSocket::bind(net.addr("n2")).await.unwrap();
    let secret = net.cluster.secret().unwrap();
    let boot = clock::unix_micros();
    let slander = |seq| Message {
        to: name("n1"),
        body: Body::Ping { seq },
        facts: vec![Fact {
            name: name("n3"),
            incarnation: 7,
            state: State::Failed,
        }],
        stamp: None,
        configuration: None,
    };
    let sealed = |secret: &Secret, who: &str, message: &Message| {
        Sealer::new(secret, name(who), boot).seal(&message.encode().unwrap())
    };
    let foreign = sealed(&Secret::from_text(b"another cluster's secret"), "n2", &slander(1));
    let stranger = sealed(&secret, "n9", &slander(2));
    let own_name = sealed(&secret, "n1", &slander(3));
    let not_a_message = Sealer::new(&secret, name("n2"), boot).seal(b"\x93garbage");
    let misdirected = {
        let mut sealer = Sealer::new(&secret, name("n2"), boot + 1);
        sealer.seal(
            &Message {
                to: name("n3"),
                ..slander(4)
            }
            .encode()
            .unwrap(),
        )
    };
    let good = {
        let mut sealer = Sealer::new(&secret, name("n2"), boot + 2);
        sealer.seal(
            &Message {
                facts: vec![],
                ..slander(5)
            }
            .encode()
            .unwrap(),
        )
    };
    let altered = good.iter().map(|b| b ^ 1).collect();
    let bad = [
        vec![],
        b"hello".to_vec(),
        vec![0xff; 1400],
        vec![0; 3000],
        foreign,
        stranger,
        own_name,
        not_a_message,
    ];
    for datagram in bad.iter().chain([&misdirected, &altered, &good, &good]) {
        socket.send_to(datagram, net.addr("n1")).await.unwrap();
    }
    // The answer to a second good one shows that all before it has been looked at.
    let mut sealer = Sealer::new(&secret, name("n2"), boot + 3);
    let last = sealer.seal(
        &Message {
            facts: vec![],
            ..slander(6)
        }
        .encode()
        .unwrap(),
    );
    socket.send_to(&last, net.addr("n1")).await.unwrap();

    let mut opener = Opener::new(&secret);
    let mut answered = Vec::new();
    while answered.last() != Some(&6) {
        let mut buffer = [0; 2000];
        let (len, _) = timeout(BOUND, socket.recv_from(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        let (from, payload) = opener.open(&buffer[..len]).unwrap();
        assert_eq!(from.as_str(), "n1");
        if let Body::Ack { seq, about } = Message::decode(payload).unwrap().body {
            assert_eq!(about.as_str(), "n1");
            answered.push(seq);
        }
    }
    assert_eq!(answered, [5, 6], "each good one once, and none of the others");
    let listed = client::list(&net.cluster, &net.me(), &name("n1")).await.unwrap();
    assert!(listed.iter().all(|m| m.name.as_str() != "n3"), "{listed:?}");
}

#[tokio::test]
async fn strangers_on_the_introducers_port_get_nowhere() {
    let net = Net::new(40, "auth");
    let _n1 = net.start("n1").await;
    let mut http = TcpStream::connect(net.addr("n1")).await.unwrap();
    http.write_all(b"GET /list_mem HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // A reset counts as closed.
    let _ = timeout(BOUND, http.read_to_end(&mut answer))
        .await
        .expect("closed in time");
    assert_eq!(answer, b"");

    let wrong = Identity {
        secret: Secret::from_text(b"another cluster's secret"),
        ..net.me()
    };
    let refused = client::list(&net.cluster, &wrong, &name("n1")).await;
    assert!(
        matches!(
            &refused,
            Err(client::Error::Unreachable {
                source: net::Error::Secret,
                ..
            })
        ),
        "{refused:?}"
    );

    // The right secret, but not for this port, or not a node of the file.
    let outsider = Identity {
        node: Some(name("n9")),
        ..net.me()
    };
    for (me, role) in [
        (net.me(), Role::Data),
        (net.me(), Role::Join),
        (outsider, Role::Join),
    ] {
        let mut connection = net::dial(net.addr("n1"), &me, role).await.unwrap();
        let closed = timeout(BOUND, connection.rx.recv_frame())
            .await
            .expect("closed in time");
        assert!(!matches!(closed, Ok(Some(_))), "{role:?}");
    }
    assert_eq!(
        client::list(&net.cluster, &net.me(), &name("n1"))
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_taken_port_is_named_with_what_to_do() {
    let net = Net::new(50, "auth");
    let _taken = std::net::UdpSocket::bind(net.addr("n1")).unwrap();
    let _taken_too = std::net::TcpListener::bind(net.addr("n2")).unwrap();
    for (n, kind) in [("n1", "udp"), ("n2", "tcp")] {
        let error = Driver::bind(net.cluster.clone(), &name(n)).await.err().unwrap();
        assert!(matches!(error, Error::Listen { .. }));
        let text = error.to_string();
        assert!(
            text.contains(&format!("{kind} {}", net.addr(n))) && text.contains("ss -lnp"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_follower_takes_up_again_with_a_restarted_daemon() {
    let net = Net::new(60, "auth");
    let follower = Follower::start(net.cluster.clone(), net.me(), name("n1"));
    let mut view = follower.watch();
    assert!(!follower.view().connected);
    let n1 = net.start("n1").await;
    let first = timeout(BOUND, view.wait_for(|v| v.connected))
        .await
        .unwrap()
        .unwrap()
        .members[&name("n1")]
        .clone();
    drop(n1);
    let gone = timeout(BOUND, view.wait_for(|v| !v.connected))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert_eq!(gone.members[&name("n1")], first, "the last that was known");
    let _n1 = net.start("n1").await;
    let newer = |v: &client::View| v.connected && v.members[&name("n1")].incarnation > first.incarnation;
    timeout(BOUND, view.wait_for(newer)).await.unwrap().unwrap();
    let _n2 = net.start("n2").await;
    timeout(BOUND, view.wait_for(|v| v.members.contains_key(&name("n2"))))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(net.cluster.security, Security::Auth);
    assert!(net.dir.path().exists());
}
