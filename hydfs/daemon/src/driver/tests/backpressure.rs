//! A client that asks for more than it takes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::net::{Connection, Role, dial};
use common::signals::Stop;

use super::{BOUND, PORT, World, read, text};
use crate::driver::outbox::UNTAKEN;
use crate::driver::outbox::tests::MOST_HELD;
use hydfs::wire::client::{Frame, MAX_READ, Request, ToClient, ToNode};

const READS: u64 = 2_000;

/// Asks for a quarter MiB of the file so many times, and takes no answer.
async fn ask_for_too_much(world: &World, node: usize, file: &str) -> Connection {
    let addr = world.cluster.nodes[node].at(PORT);
    let mut connection = dial(addr, &world.identity(None), Role::HydfsClient)
        .await
        .unwrap();
    for call in 0..READS {
        let request = Request::Read {
            file: file.into(),
            of: None,
            offset: 0,
            len: 256 * 1024,
            any: true,
        };
        let frame = Frame::to_node(&ToNode::Call(call, request)).unwrap();
        connection.tx.feed_frame(frame.head).await.unwrap();
    }
    connection.tx.flush().await.unwrap();
    connection
}

/// Half a GiB of answers is asked for by one that does not read them: its node holds a few MiB of them, and works for others.
#[tokio::test]
async fn answers_that_nobody_takes_are_not_made() {
    let world = World::start(11, 3, "").await;
    let client = world.client(0);
    let bytes = text(20_000);
    client.put(&bytes[..], "f", &Stop::never(), |_| {}).await.unwrap();
    let stat = world.wait_whole(&client, "f").await;
    let node = world.index(&stat.replicas[0]);
    let mut greedy = ask_for_too_much(&world, node, "f").await;

    // The node has made what it makes: then it would have to wait for the client.
    let others = async {
        while MOST_HELD.load(Ordering::SeqCst) <= UNTAKEN {
            assert!(read(&client, "f").await == bytes);
            assert!(world.copy(node, "f", bytes.len() as u64).await.is_some());
        }
        for i in 0..20 {
            let name = format!("g{i}");
            client
                .put(&b"more"[..], &name, &Stop::never(), |_| {})
                .await
                .unwrap();
        }
    };
    tokio::time::timeout(BOUND, others).await.expect("others go on");
    let most = MOST_HELD.load(Ordering::SeqCst);
    assert!(most <= UNTAKEN + MAX_READ + 1024, "{most} bytes were held");

    // And all of it comes when the client takes it.
    let mut seen = vec![false; READS as usize];
    let answers = async {
        for _ in 0..READS {
            let frame = greedy.rx.recv_frame().await.unwrap().unwrap();
            match common::net::frame::decode::<ToClient>(&frame).unwrap() {
                ToClient::Data(call, 0, _, data) => {
                    assert!(data[..] == bytes[..256 * 1024]);
                    assert!(!std::mem::replace(&mut seen[call as usize], true), "twice");
                }
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(BOUND, answers)
        .await
        .expect("every call is answered");
    let most = MOST_HELD.load(Ordering::SeqCst);
    assert!(most <= UNTAKEN + MAX_READ + 1024, "{most} bytes were held");
}

/// One that asks for more listings than are made at a time gets all of them in the end.
#[tokio::test]
async fn listings_wait_for_their_turn() {
    let world = World::start(12, 1, "").await;
    let client = world.client(0);
    client.put(&b"x"[..], "f", &Stop::never(), |_| {}).await.unwrap();
    let addr = world.cluster.nodes[0].at(PORT);
    let mut connection = dial(addr, &world.identity(None), Role::HydfsClient)
        .await
        .unwrap();
    for call in 0..200 {
        let request = match call % 2 {
            0 => Request::ListStore { after: String::new() },
            _ => Request::Find {
                range: hydfs::ring::RangeIx(0),
                prefix: String::new(),
                after: String::new(),
            },
        };
        let frame = Frame::to_node(&ToNode::Call(call, request)).unwrap();
        connection.tx.feed_frame(frame.head).await.unwrap();
    }
    connection.tx.flush().await.unwrap();
    let answers = async {
        for _ in 0..200 {
            let frame = connection.rx.recv_frame().await.unwrap().unwrap();
            let reply = common::net::frame::decode::<ToClient>(&frame).unwrap();
            assert!(matches!(reply, ToClient::Reply(..)), "{reply:?}");
        }
    };
    tokio::time::timeout(Duration::from_secs(60), answers)
        .await
        .unwrap();
}
