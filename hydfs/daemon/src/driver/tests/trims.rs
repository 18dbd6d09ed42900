//! Trimming, with real disks.

use super::*;

/// Bytes of all segment files of a node.
fn on_disk(world: &World, node: usize) -> u64 {
    let folder = world.cluster.nodes[node].data.join("hydfs/seg");
    let subs = std::fs::read_dir(folder).unwrap().map(|sub| sub.unwrap().path());
    let files = subs.flat_map(|sub| std::fs::read_dir(sub).unwrap());
    files
        .map(|file| file.unwrap().metadata().map_or(0, |m| m.len()))
        .sum()
}

fn trimmed<T: std::fmt::Debug>(result: Result<T, ClientError>) -> u64 {
    match result {
        Err(ClientError::Trimmed { base, .. }) => base,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_trimmed_is_gone_everywhere_and_the_rest_is_as_it_was() {
    let mut world = World::start(13, 3, "[hydfs]\nrepair_bytes_per_s = 0\n").await;
    let client = world.client(0);
    let all = text(100_000);
    let len = all.len() as u64;
    client.put(&all[..], "f", &Stop::never(), |_| {}).await.unwrap();
    let base = len / 3 + 1;
    assert_eq!(client.trim("f", base).await, Ok(base));
    assert_eq!(
        client.trim("f", 5).await,
        Ok(base),
        "it is trimmed further already"
    );
    let beyond = client.trim("f", len + 1).await;
    assert!(
        matches!(beyond, Err(ClientError::BeyondEnd { base, len: end, .. }) if (base, end) == (len + 1, len))
    );
    let stat = client.stat("f").await.unwrap();
    assert_eq!((stat.base, stat.len, stat.newlines), (base, len, 100_000));
    for node in 0..3 {
        let client = world.client(node);
        assert_eq!(trimmed(client.read("f", base - 1, 10).await), base);
        assert_eq!(trimmed(client.tail("f", 0, 10, Duration::ZERO).await), base);
        assert!(trimmed(client.get("f", 0..10).await.map(drop)) == base);
        let rest = client.read("f", base, len as usize).await.unwrap();
        assert!(rest == all[base as usize..]);
    }
    let marks = client.index("f").await.unwrap();
    assert_eq!(marks[0].offset, base);
    for mark in marks {
        let before = all[..mark.offset as usize]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        assert_eq!(mark.newlines_before, before as u64);
    }
    assert_eq!(client.trim("f", len).await, Ok(len));
    assert!(client.read("f", len, 10).await.unwrap().is_empty());
    assert_eq!(client.stat("f").await.unwrap().newlines, 100_000);
    let merged = client.merge("f").await.unwrap();
    assert_eq!((merged.len, merged.replicas.len()), (len, 3));
    // All of it was in one segment, which is still open on no node.
    for node in 0..3 {
        assert!(
            on_disk(&world, node) < 10_000,
            "node {node} keeps {} bytes",
            on_disk(&world, node)
        );
    }
    // Restarts and take-overs do not bring it back, and appends go on where they were.
    for node in 0..3 {
        world.kill(node);
        let client = world.client((node + 1) % 3);
        client
            .append(&b"more\n"[..], "f", Gather::Whole, &Stop::never(), |_| {})
            .await
            .unwrap();
        world.start_node(node).await;
        let stat = client.stat("f").await.unwrap();
        assert_eq!((stat.base, stat.len), (len, len + 5 * (node as u64 + 1)));
        assert_eq!(trimmed(client.read("f", len - 1, 1).await), len);
    }
    let client = world.client(0);
    world.wait_whole(&client, "f").await;
    assert_eq!(client.read("f", len, 100).await.unwrap(), "more\nmore\nmore\n");
}

#[tokio::test]
async fn a_file_that_is_trimmed_as_it_grows_stays_small_in_one_view() {
    let world = World::start(14, 3, "").await;
    let client = world.client(0);
    let mut appender = client.open_append("log", "task", Epoch(1), true).await.unwrap();
    let piece = Bytes::from(vec![b'x'; 256 * 1024]);
    let mut most = 0;
    for round in 1..=100 {
        appender.append(piece.clone());
        let acked = appender.wait_acked(round * piece.len() as u64).await.unwrap();
        // A megabyte is kept.
        appender.trim(acked.saturating_sub(1 << 20));
        most = most.max(on_disk(&world, 0));
    }
    let end = 100 * piece.len() as u64;
    let done = async {
        while appender.base() < end - (1 << 20) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, done).await.expect("it is trimmed");
    assert!(most < 8 << 20, "{most} bytes of {end} were on a disk");
    assert_eq!(client.stat("log").await.unwrap().base, end - (1 << 20));
    // The process that takes over is told, and the one before trims nothing any more.
    let new = client.open_append("log", "task", Epoch(2), true).await.unwrap();
    assert_eq!((new.length(), new.base()), (end, end - (1 << 20)));
    appender.trim(end);
    let refused = appender.wait_acked(end + 1).await;
    assert!(
        matches!(&refused, Err(ClientError::Fenced { epoch: Epoch(2), .. })),
        "{refused:?}"
    );
    assert_eq!(client.stat("log").await.unwrap().base, end - (1 << 20));
    assert!(client.streams("log").await.unwrap().of("task").unwrap().length == end);
}

#[tokio::test]
async fn a_trim_that_is_refused_ends_no_appends() {
    let world = World::start(16, 3, "").await;
    let client = world.client(0);
    let mut appender = client.open_append("log", "task", Epoch(1), true).await.unwrap();
    appender.append(&b"line\n"[..]);
    appender.wait_acked(5).await.unwrap();
    appender.trim(1000);
    // Only after that is refused another is sent.
    let done = async {
        while appender.base() < 5 {
            appender.trim(5);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, done).await.expect("it is trimmed");
    appender.append(&b"more\n"[..]);
    assert_eq!(appender.wait_acked(10).await, Ok(10));
}

#[tokio::test]
async fn a_long_file_is_in_segments_that_are_dropped_one_by_one() {
    let world = World::start(15, 3, "").await;
    let client = world.client(0);
    let all: Vec<u8> = (0..80u32 << 18)
        .flat_map(u32::to_le_bytes)
        .take(80 << 20)
        .collect();
    client.put(&all[..], "f", &Stop::never(), |_| {}).await.unwrap();
    world.wait_whole(&client, "f").await;
    let full = on_disk(&world, 0);
    for base in [30 << 20, 50 << 20, 79 << 20] {
        client.trim("f", base).await.unwrap();
        let kept = all.len() as u64 - base;
        assert!(client.read("f", base, 1 << 20).await.unwrap() == all[base as usize..][..1 << 20]);
        let merged = client.merge("f").await.unwrap();
        assert_eq!(merged.replicas.len(), 3);
        for node in 0..3 {
            let there = on_disk(&world, node);
            assert!(
                there < full && there < kept + (18 << 20),
                "{there} bytes for {kept}"
            );
        }
    }
    let report = client.fsck("", false).await.unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}
