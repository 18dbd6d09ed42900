//! Appenders when storage nodes go and come back.

use std::time::Duration;

use common::ids::Epoch;

use super::{BOUND, World, read};
use hydfs::client::Error as ClientError;

/// Record `i` of a stream: its number, then as many bytes as that says.
fn records(n: u64) -> Vec<u8> {
    (0..n).flat_map(record).collect()
}

fn record(i: u64) -> Vec<u8> {
    let mut bytes = format!("record {i} ").into_bytes();
    bytes.resize(20 + (i as usize * 37) % 3000, b'.');
    bytes.push(b'\n');
    bytes
}

#[tokio::test]
async fn appends_go_on_when_the_coordinator_is_killed_among_them() {
    let mut world = World::start(2, 3, "").await;
    let client = world.client(0);
    client.create("log").await.unwrap();
    let victim = world.index(client.stat("log").await.unwrap().coordinator.as_ref().unwrap());
    let client = world.client((victim + 1) % 3);
    let mut appender = client.open_append("log", "s1t0", Epoch(1), false).await.unwrap();
    let all = records(4000);
    for i in 0..2000 {
        appender.append(record(i));
    }
    appender.wait_acked(1000).await.unwrap();
    assert!(appender.acked() < appender.queued(), "some are under way");
    world.kill(victim);
    for i in 2000..4000 {
        appender.append(record(i));
    }
    let end = tokio::time::timeout(BOUND, appender.wait_acked(all.len() as u64))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(end, all.len() as u64);
    assert!(
        read(&client, "log").await == all,
        "nothing lost, nothing twice, in order"
    );

    world.start_node(victim).await;
    world.wait_whole(&client, "log").await;
    appender.append(&b"the end\n"[..]);
    appender.wait_acked(appender.queued()).await.unwrap();
    let all = [&all[..], b"the end\n"].concat();
    assert!(read(&world.client(victim), "log").await == all);
    // Two of three are gone: no writing, but what the returned one has can be read.
    world.kill((victim + 1) % 3);
    world.kill((victim + 2) % 3);
    let alone = world.client(victim).with_patience(Duration::from_millis(3000));
    assert!(read(&alone, "log").await.starts_with(&all[..all.len() - 8]));
    let refused = alone
        .with_patience(Duration::from_millis(100))
        .create("more")
        .await;
    assert!(
        matches!(refused, Err(ClientError::Unavailable { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_idle_appender_outlives_its_coordinator() {
    let mut world = World::start(10, 3, "").await;
    let client = world.client(0);
    client.create("log").await.unwrap();
    let victim = world.index(client.stat("log").await.unwrap().coordinator.as_ref().unwrap());
    let client = world
        .client((victim + 1) % 3)
        .with_patience(Duration::from_secs(5));
    let mut appender = client.open_append("log", "c", Epoch(1), false).await.unwrap();
    appender.append(&b"one "[..]);
    appender.wait_acked(4).await.unwrap();
    world.kill(victim);
    let moved = async {
        while client.stat("log").await.unwrap().coordinator == Some(world.name(victim)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, moved).await.unwrap();
    appender.append(&b"two"[..]);
    assert_eq!(
        tokio::time::timeout(BOUND, appender.wait_acked(7))
            .await
            .unwrap()
            .unwrap(),
        7
    );
    assert_eq!(read(&client, "log").await, b"one two");
}
