//! The bytes of a log, and who appended them.

use super::*;

pub const ROWS: &[Row<TamperBytes>] = &[
    (
        "flip a bit",
        |s, r| {
            let at = (0..s.log.len()).choose(r)?;
            s.log[at] ^= 1 << r.random_range(0..8);
            Some(())
        },
        &["damaged"],
    ),
    (
        "tear the end off",
        |s, r| {
            let at = (1..s.log.len()).choose(r)?;
            s.log.truncate(at);
            Some(())
        },
        &["HyDFS's record of it comes to"],
    ),
    (
        "add bytes",
        |s, r| {
            s.log.extend((0..r.random_range(1..30)).map(|n| n as u8));
            Some(())
        },
        &["damaged", "HyDFS's record of it comes to"],
    ),
    (
        "drop bytes out of the middle",
        |s, r| {
            let at = (1..s.log.len()).choose(r)?;
            s.log.drain(at - 1..at);
            Some(())
        },
        &["damaged", "HyDFS's record of it comes to"],
    ),
    (
        "somebody else writes into it",
        |s, _| {
            let span = Span {
                epoch: Epoch(1),
                start: 0,
                end: 3,
            };
            let other = stream("a stranger", vec![span]);
            s.streams.clients.insert(other.client, other);
            Some(())
        },
        &["written by somebody else"],
    ),
    (
        "its writer is unknown",
        |s, _| {
            s.streams.clients.clear();
            Some(())
        },
        &["never wrote to its log"],
    ),
    (
        "a byte of it twice",
        |s, _| {
            let spans = &mut s.streams.clients.values_mut().next()?.spans;
            spans.get_mut(1)?.start -= 1;
            Some(())
        },
        &["was next"],
    ),
    (
        "nobody knows who wrote its beginning",
        |s, _| {
            let spans = &mut s.streams.clients.values_mut().next()?.spans;
            spans.first_mut()?.start += 1;
            Some(())
        },
        &["is not known from byte"],
    ),
    (
        "its state is trimmed",
        |s, _| {
            let snapshots = s.snapshots.as_mut()?;
            snapshots.base = snapshots.len;
            Some(())
        },
        &["of the snapshot file, which was trimmed"],
    ),
    (
        "a hole in it",
        |s, _| {
            let spans = &mut s.streams.clients.values_mut().next()?.spans;
            spans.get_mut(1)?.start += 1;
            Some(())
        },
        &["was next"],
    ),
];
