//! Three storage nodes in one process, over real sockets and disks.

mod backpressure;
mod failover;
mod trims;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::cluster::Cluster;
use common::ids::{Epoch, NodeName};
use common::net::{self, Identity, Role, dial};
use common::secret::Secret;
use common::signals::Stop;
use common::spawn;

use super::{Daemon, Error};
use crate::disk;
use hydfs::client::{Answer, Client, Error as ClientError, Gather, Nodes};
use hydfs::view::NodeIx;
use hydfs::wire::client::{Reply, Request};

const PORT: u16 = 21010;
/// Nothing here takes longer, or something is wrong.
const BOUND: Duration = Duration::from_secs(120);

struct World {
    folder: tempfile::TempDir,
    cluster: Arc<Cluster>,
    nodes: Vec<Option<spawn::Guard>>,
}

impl World {
    /// `test` tells the tests' addresses apart: they run at the same time.
    async fn start(test: u8, count: u8, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "a secret of the tests alone").unwrap();
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let mut text = format!(
            "secret_file = \"secret\"\n[ports]\nhydfs = {PORT}\nintroducer = {}\n{settings}",
            PORT + 1
        );
        for i in 1..=count {
            text += &format!(
                "[[node]]\nname = \"n{i}\"\naddr = \"127.0.2.{}\"\n",
                test * 10 + i
            );
        }
        let path = folder.path().join("cluster.toml");
        std::fs::write(&path, text).unwrap();
        let cluster = Arc::new(Cluster::load(&path).unwrap());
        let mut world = Self {
            folder,
            cluster,
            nodes: (0..count).map(|_| None).collect(),
        };
        for i in 0..count as usize {
            world.start_node(i).await;
        }
        world
    }

    fn name(&self, i: usize) -> NodeName {
        self.cluster.nodes[i].name.clone()
    }

    fn index(&self, name: &NodeName) -> usize {
        self.cluster.nodes.iter().position(|n| n.name == *name).unwrap()
    }

    async fn start_node(&mut self, i: usize) {
        let started = async {
            loop {
                match Daemon::start(self.cluster.clone(), &self.name(i)).await {
                    Ok(daemon) => return daemon,
                    // The one before has not gone yet.
                    Err(Error::Listen { .. } | Error::Open(disk::OpenError::Locked { .. })) => {
                        tokio::task::yield_now().await;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        };
        let daemon = tokio::time::timeout(BOUND, started).await.unwrap();
        self.nodes[i] = Some(spawn::guarded("test-node", daemon.run(std::future::pending())));
    }

    /// As `kill -9` does: sockets close, nothing is said.
    fn kill(&mut self, i: usize) {
        self.nodes[i] = None;
    }

    fn identity(&self, node: Option<usize>) -> Identity {
        Identity {
            who: "test".into(),
            node: node.map(|i| self.name(i)),
            secret: self.cluster.secret().unwrap(),
            security: self.cluster.security,
        }
    }

    fn client(&self, node: usize) -> Client {
        Client::new(self.cluster.clone(), self.identity(Some(node))).with_patience(BOUND)
    }

    /// What the copy on node `i` says, asked of it alone.
    async fn copy(&self, i: usize, file: &str, len: u64) -> Option<Vec<u8>> {
        let nodes = Nodes::new(self.cluster.clone(), self.identity(None));
        let mut all = Vec::new();
        while (all.len() as u64) < len {
            let request = Request::Read {
                of: None,
                file: file.into(),
                offset: all.len() as u64,
                len: 1 << 20,
                any: true,
            };
            match nodes.call(NodeIx(i as u16), request, BOUND).await.ok()? {
                Answer::Data { bytes, .. } if !bytes.is_empty() => all.extend_from_slice(&bytes),
                _ => return None,
            }
        }
        Some(all)
    }

    async fn wait_whole(&self, client: &Client, file: &str) -> hydfs::client::Stat {
        let waiting = async {
            loop {
                let stat = client.stat(file).await.unwrap();
                if !stat.under_replicated {
                    return stat;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(BOUND, waiting)
            .await
            .expect("all copies are whole again")
    }
}

async fn read(client: &Client, file: &str) -> Vec<u8> {
    let mut all = Vec::new();
    let mut stream = client.stream(file, 0..u64::MAX);
    while let Some(piece) = stream.next().await {
        all.extend_from_slice(&piece.unwrap());
    }
    all
}

fn text(lines: usize) -> Vec<u8> {
    (0..lines)
        .flat_map(|i| format!("line {i} of the text\n").into_bytes())
        .collect()
}

#[tokio::test]
async fn files_are_created_appended_read_listed_and_removed() {
    let world = World::start(1, 3, "").await;
    let client = world.client(0);
    let big = text(200_000);
    let mut told = 0;
    assert_eq!(
        client
            .put(&big[..], "in/big", &Stop::never(), |n| told = n)
            .await
            .unwrap(),
        big.len() as u64
    );
    assert_eq!(told, big.len() as u64);
    for (i, file) in ["in/a", "in/b", "other"].iter().enumerate() {
        client.create(file).await.unwrap();
        world
            .client(i)
            .append(&b"one\n"[..], file, Gather::Whole, &Stop::never(), |_| {})
            .await
            .unwrap();
    }
    assert!(matches!(
        client.create("in/a").await,
        Err(ClientError::Exists { .. })
    ));
    for i in 0..3 {
        let client = world.client(i);
        assert_eq!(read(&client, "in/big").await, big);
        assert_eq!(client.read("in/big", 5, 10).await.unwrap(), big[5..15]);
        assert_eq!(
            client.read("in/big", 1_000_000, 2_500_000).await.unwrap(),
            big[1_000_000..3_500_000]
        );
        assert!(
            client
                .read("in/big", big.len() as u64, 10)
                .await
                .unwrap()
                .is_empty()
        );
        let found: Vec<_> = client
            .find("in/")
            .await
            .unwrap()
            .into_iter()
            .map(|e| (e.file, e.len))
            .collect();
        let want = [
            ("in/a".to_owned(), 4),
            ("in/b".to_owned(), 4),
            ("in/big".to_owned(), big.len() as u64),
        ];
        assert_eq!(found, want);
        assert_eq!(client.list_store(&world.name(i)).await.unwrap().len(), 4);
    }
    let stat = world.wait_whole(&client, "in/big").await;
    assert_eq!((stat.newlines, stat.replicas.len()), (200_000, 3));
    assert_eq!(stat.coordinator, stat.replicas.first().cloned());
    let marks = client.index("in/big").await.unwrap();
    assert_eq!((marks[0].offset, marks[0].newlines_before), (0, 0));
    assert!(marks.len() >= big.len() >> 20);
    for mark in marks {
        let before = big[..mark.offset as usize]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        assert_eq!(before as u64, mark.newlines_before);
    }
    client.remove("in/a").await.unwrap();
    assert!(matches!(
        client.stat("in/a").await,
        Err(ClientError::NoSuchFile { .. })
    ));
    assert!(matches!(
        client.remove("in/a").await,
        Err(ClientError::NoSuchFile { .. })
    ));
    assert!(matches!(
        client.read("nope", 0, 1).await,
        Err(ClientError::NoSuchFile { .. })
    ));
    assert!(matches!(
        client.create("../x").await,
        Err(ClientError::InvalidName { .. })
    ));
    assert!(
        client
            .nodes()
            .await
            .unwrap()
            .iter()
            .all(|n| n.state == hydfs::client::NodeState::Alive)
    );
}

#[tokio::test]
async fn a_replaced_process_can_append_no_more() {
    let world = World::start(3, 3, "").await;
    let client = world.client(0);
    let mut old = client.open_append("out", "s1t0", Epoch(1), true).await.unwrap();
    old.append(&b"before "[..]);
    old.wait_acked(7).await.unwrap();
    let mut new = world
        .client(1)
        .open_append("out", "s1t0", Epoch(2), true)
        .await
        .unwrap();
    assert_eq!(new.length(), 7);
    old.append(&b"zombie "[..]);
    let refused = old.wait_acked(14).await;
    assert!(
        matches!(&refused, Err(ClientError::Fenced { epoch: Epoch(2), client, .. }) if client == "s1t0"),
        "{refused:?}"
    );
    assert_eq!(old.changed().await, Ok(7), "what was acknowledged is told first");
    assert_eq!(old.changed().await, refused);
    new.append(&b"after"[..]);
    assert_eq!(new.wait_acked(12).await.unwrap(), 12);
    assert_eq!(read(&client, "out").await, b"before after");
    let streams = client.streams("out").await.unwrap();
    let mine = streams.of("s1t0").unwrap();
    assert_eq!((streams.len, streams.total(), mine.epoch), (12, 12, Epoch(2)));
    let spans: Vec<_> = mine.spans.iter().map(|s| (s.epoch.0, s.start, s.end)).collect();
    assert_eq!(spans, [(1, 0, 7), (2, 7, 12)], "the zombie's is not among them");
    assert!(streams.of("s1t1").is_none() && !streams.missing);
    // An equal epoch from another process, and a lower one.
    for epoch in [2, 1] {
        let refused = client.open_append("out", "s1t0", Epoch(epoch), true).await;
        assert!(matches!(
            refused,
            Err(ClientError::Fenced { epoch: Epoch(2), .. })
        ));
    }
    // Another client's stream is another matter.
    let mut other = client.open_append("out", "s1t1", Epoch(1), true).await.unwrap();
    other.append(&b"!"[..]);
    assert_eq!(other.wait_acked(1).await.unwrap(), 1);
}

#[tokio::test]
async fn strangers_are_refused_and_harm_nothing() {
    let world = World::start(4, 3, "").await;
    let client = world.client(0);
    client.create("f").await.unwrap();
    let addr = world.cluster.nodes[0].at(PORT);
    let strange = tokio::task::spawn_blocking(move || {
        let mut ends = Vec::new();
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"RNSTR\x03\xff\xff",
            &[0xff; 4096],
        ] {
            let mut stranger = std::net::TcpStream::connect(addr).unwrap();
            stranger.write_all(bytes).unwrap();
            let _ = stranger.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stranger.read_to_end(&mut answer);
            ends.push(answer);
        }
        ends
    });
    assert!(strange.await.unwrap().iter().all(Vec::is_empty));
    let wrong = Identity {
        secret: Secret::from_text(b"another secret altogether"),
        ..world.identity(None)
    };
    assert!(matches!(
        dial(addr, &wrong, Role::HydfsClient).await,
        Err(net::Error::Secret)
    ));
    // Who knows the secret and talks nonsense, or has no business here, is cut off.
    for (role, node) in [
        (Role::HydfsClient, None),
        (Role::HydfsPeer, Some(1)),
        (Role::HydfsPeer, None),
        (Role::Data, None),
    ] {
        let mut connection = dial(addr, &world.identity(node), role).await.unwrap();
        // It may have been closed already.
        let _ = connection.tx.feed_frame(vec![0x93; 100]).await;
        let _ = connection.tx.flush().await;
        let end = tokio::time::timeout(BOUND, connection.rx.recv_frame())
            .await
            .unwrap();
        assert!(!matches!(end, Ok(Some(_))), "{role:?}");
    }
    client
        .append(&b"still here"[..], "f", Gather::Whole, &Stop::never(), |_| {})
        .await
        .unwrap();
    assert_eq!(read(&client, "f").await, b"still here");
}

#[tokio::test]
async fn a_tailing_reader_gets_what_is_appended_while_it_waits() {
    let world = World::start(5, 3, "").await;
    let client = world.client(0);
    let mut appender = client.open_append("f", "c", Epoch(1), true).await.unwrap();
    assert!(
        client
            .tail("f", 0, 100, Duration::from_millis(1))
            .await
            .unwrap()
            .is_empty()
    );
    let reader = world.client(1);
    let waiting = reader.tail("f", 0, 100, BOUND);
    tokio::pin!(waiting);
    // It is waiting at the coordinator before anything is appended.
    tokio::select! {
        biased;
        early = &mut waiting => panic!("{early:?}"),
        stat = client.stat("f") => assert_eq!(stat.unwrap().len, 0),
    }
    appender.append(&b"news"[..]);
    assert_eq!(
        tokio::time::timeout(BOUND, waiting).await.unwrap().unwrap(),
        "news"
    );
    // A long append stays whole.
    let long: Bytes = vec![7; 20 << 20].into();
    appender.append(long.clone());
    appender.wait_acked(4 + long.len() as u64).await.unwrap();
    assert_eq!(client.index("f").await.unwrap().len(), 1);
    assert!(client.read("f", 4, long.len()).await.unwrap() == long);
}

#[tokio::test]
async fn a_damaged_copy_is_not_served_and_is_repaired() {
    let mut world = World::start(6, 3, "[hydfs]\nrepair_bytes_per_s = 0\n").await;
    let client = world.client(0);
    let bytes = text(100_000);
    client.put(&bytes[..], "f", &Stop::never(), |_| {}).await.unwrap();
    let stat = client.stat("f").await.unwrap();
    let victim = world.index(&stat.replicas[1]);
    let before = world.copy(victim, "f", bytes.len() as u64).await;
    assert!(before.is_some_and(|copy| copy == bytes));
    let mut hit = 0;
    for sub in std::fs::read_dir(world.cluster.nodes[victim].data.join("hydfs/seg")).unwrap() {
        for file in std::fs::read_dir(sub.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let mut content = std::fs::read(&path).unwrap();
            if content.len() > 1_000_000 {
                let middle = content.len() / 2;
                content[middle] ^= 4;
                // In place: the daemon has it open.
                let os = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&os, &content, 0).unwrap();
                hit += 1;
            }
        }
    }
    assert_eq!(hit, 1);
    assert!(
        read(&world.client(victim), "f").await == bytes,
        "the damage is not seen by a reader"
    );
    assert!(
        world.copy(victim, "f", bytes.len() as u64).await.is_none(),
        "the damaged copy is given up"
    );
    // An open segment is fetched anew when a change of the set has sealed it.
    let third = world.index(&stat.replicas[2]);
    world.kill(third);
    world.start_node(third).await;
    let whole = async {
        while world
            .copy(victim, "f", bytes.len() as u64)
            .await
            .is_none_or(|copy| copy != bytes)
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, whole)
        .await
        .expect("the copy is repaired");
}

#[tokio::test]
async fn a_missing_copy_is_rebuilt_from_the_others() {
    let mut world = World::start(7, 3, "[hydfs]\nrepair_bytes_per_s = 0\n").await;
    let client = world.client(0);
    let bytes = text(150_000);
    client
        .put(&bytes[..], "big", &Stop::never(), |_| {})
        .await
        .unwrap();
    for i in 0..50 {
        client
            .put(
                format!("tiny {i}").as_bytes(),
                &format!("tiny/{i}"),
                &Stop::never(),
                |_| {},
            )
            .await
            .unwrap();
    }
    let len = bytes.len() as u64;
    assert!(world.copy(2, "big", len).await.is_some());
    world.kill(2);
    // Wiped.
    let data = world.cluster.nodes[2].data.clone();
    std::fs::remove_dir_all(&data).unwrap();
    world.start_node(2).await;
    let client = world.client(1);
    let returned = async {
        while client.stat("big").await.unwrap().replicas.len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, returned).await.unwrap();
    world.wait_whole(&client, "big").await;
    assert!(world.copy(2, "big", len).await.is_some_and(|copy| copy == bytes));
    for i in 0..50 {
        let (file, want) = (format!("tiny/{i}"), format!("tiny {i}").into_bytes());
        world.wait_whole(&client, &file).await;
        assert_eq!(world.copy(2, &file, want.len() as u64).await.unwrap(), want);
    }
}

#[tokio::test]
async fn a_node_runs_once() {
    let world = World::start(8, 1, "").await;
    let again = Daemon::start(world.cluster.clone(), &world.name(0)).await;
    assert!(matches!(again, Err(Error::Open(disk::OpenError::Locked { .. }))));
    // Another folder, but the same address.
    let text = std::fs::read_to_string(&world.cluster.path)
        .unwrap()
        .replace("addr", "data = \"elsewhere\"\naddr");
    let path = world.folder.path().join("other.toml");
    std::fs::write(&path, text).unwrap();
    let other = Arc::new(Cluster::load(&path).unwrap());
    let again = Daemon::start(other, &world.name(0)).await.map(drop);
    assert!(matches!(&again, Err(e @ Error::Listen { .. }) if e.to_string().contains("another hydfsd")));
    // One node alone is a cluster, too.
    let client = world.client(0);
    client.put(&b"x"[..], "f", &Stop::never(), |_| {}).await.unwrap();
    assert_eq!(read(&client, "f").await, b"x");
}

#[tokio::test]
async fn the_ring_is_listed_by_whoever_answers() {
    let mut world = World::start(9, 3, "").await;
    let client = world.client(0);
    client.create("f").await.unwrap();
    world.kill(2);
    let nodes = Nodes::new(world.cluster.clone(), world.identity(Some(0)));
    let seen = async {
        loop {
            let Ok(Answer::Reply(Reply::Ring { nodes })) = nodes.call(NodeIx(0), Request::Ring, BOUND).await
            else {
                panic!("no ring")
            };
            let failed = nodes
                .iter()
                .filter(|n| n.state == hydfs::client::NodeState::Failed)
                .count();
            if failed == 1 {
                return nodes;
            }
            tokio::task::yield_now().await;
        }
    };
    let nodes = tokio::time::timeout(BOUND, seen).await.unwrap();
    assert!(nodes.is_sorted_by_key(|n| n.token) && nodes.len() == 3);
}
