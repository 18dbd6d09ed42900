use super::*;
use proptest::prelude::*;

type Tuples = Vec<(Vec<u8>, Vec<u8>)>;

fn build(tuples: &Tuples) -> Batch {
    let mut b = Builder::new();
    tuples.iter().for_each(|(k, v)| b.push(k, v));
    b.take()
}

fn read(batch: &Batch) -> Tuples {
    let mut out = vec![];
    batch.for_each(|k, v| out.push((k.to_vec(), v.to_vec())));
    out
}

fn over_the_wire(batch: &Batch) -> Batch {
    let frame: Bytes = rmp_serde::to_vec(&batch.wire()).unwrap().into();
    let wire: Wire = rmp_serde::from_slice(&frame).unwrap();
    Batch::from_wire(&wire, &frame).unwrap()
}

proptest! {
    #[test]
    fn columns_round_trip_and_skip(tuples: Tuples, n: prop::sample::Index) {
        let mut batch = over_the_wire(&build(&tuples));
        prop_assert_eq!(&read(&batch), &tuples);
        let n = n.index(tuples.len() + 1);
        batch.skip(n);
        let batch = over_the_wire(&batch);
        prop_assert_eq!(read(&batch), &tuples[n..]);
        let joined: Vec<u8> = tuples[n..].iter().flat_map(|(_, v)| v.clone()).collect();
        prop_assert_eq!(batch.values_joined(), joined);
        let mut stored = vec![];
        batch.value_ends_into(batch.len(), &mut stored);
        prop_assert_eq!(stored, (0..batch.len()).flat_map(|i| (batch.value_end(i) as u32).to_le_bytes()).collect::<Vec<_>>());
        let ends: Vec<usize> = (0..batch.len()).map(|i| batch.value_end(i)).collect();
        let want = tuples[n..].iter().scan(0, |end, (_, v)| { *end += v.len(); Some(*end) });
        prop_assert_eq!(ends, want.collect::<Vec<_>>());
        prop_assert_eq!(batch.len(), tuples.len() - n);
    }

    #[test]
    fn the_value_at_a_byte_is_the_first_that_ends_behind_it(lengths in prop::collection::vec(0..4usize, 0..50), n: prop::sample::Index, from: prop::sample::Index) {
        let mut batch = build(&lengths.iter().map(|l| (vec![], vec![b'v'; *l])).collect());
        batch.skip(n.index(lengths.len() + 1));
        let from = from.index(batch.len() + 1);
        for at in 0..=batch.values_joined().len() {
            let want = (from..batch.len()).find(|i| batch.value_end(*i) > at).unwrap_or(batch.len());
            prop_assert_eq!(batch.value_with(from, at), want);
        }
    }

    #[test]
    fn ends_that_go_backwards_are_seen(mut ends: Vec<u32>, from: u32) {
        let bytes = |ends: &[u32]| ends.iter().flat_map(|e| e.to_le_bytes()).collect::<Vec<_>>();
        prop_assert_eq!(ends_rise(&bytes(&ends), from), ends.is_sorted() && ends.first().is_none_or(|e| *e >= from));
        ends.sort_unstable();
        prop_assert!(ends_rise(&bytes(&ends), 0));
    }

    #[test]
    fn lines_are_spelled_out_right(first in 1u64..1_000_000, step in 1u64..9, n in 1usize..50, skip in 0usize..60) {
        let mut b = Builder::new();
        let file = Bytes::from_static(b"dir/f.txt");
        for i in 0..n as u64 {
            prop_assert!(b.push_line(&file, first + i * step, b"v"));
        }
        let mut batch = over_the_wire(&b.take());
        batch.skip(skip);
        let want: Tuples = (skip.min(n)..n).map(|i| (format!("dir/f.txt:{}", first + i as u64 * step).into_bytes(), b"v".to_vec())).collect();
        prop_assert_eq!(read(&batch), want.clone());
        for (i, (key, value)) in want.iter().enumerate() {
            let mut k = vec![];
            batch.key_into(i, &mut k);
            prop_assert_eq!(&k, key);
            prop_assert_eq!(batch.value(i), &value[..]);
        }
    }

    #[test]
    fn garbage_is_refused_not_a_panic(len: u32, start: u32, ends: Vec<u8>, data: Vec<u8>) {
        let column = || ColumnWire(start, serde_bytes::Bytes::new(&ends), serde_bytes::Bytes::new(&data));
        let wire = Wire(len, KeysWire::Column(column()), column());
        let frame: Bytes = rmp_serde::to_vec(&wire).unwrap().into();
        let wire: Wire = rmp_serde::from_slice(&frame).unwrap();
        if let Ok(batch) = Batch::from_wire(&wire, &frame) {
            batch.for_each(|_, _| {});
        }
    }
}

#[test]
fn a_drained_builder_starts_anew() {
    let mut b = Builder::new();
    for round in [
        &[(&b"k"[..], &b"v"[..]), (b"", b"w"), (b"key", b"")][..],
        &[],
        &[(b"x", b"y")],
    ] {
        round.iter().for_each(|(k, v)| b.push(k, v));
        let mut got = vec![];
        b.drain(|k, v| got.push((k.to_vec(), v.to_vec())));
        let want: Tuples = round.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
        assert_eq!(got, want);
        assert!(b.is_empty() && b.bytes() == 0);
    }
}

#[test]
fn a_run_of_lines_that_breaks_is_not_pushed() {
    let mut b = Builder::new();
    let (f, g) = (Bytes::from_static(b"f"), Bytes::from_static(b"g"));
    assert!(b.push_line(&f, 1, b"a") && b.push_line(&f, 4, b"b"));
    assert!(!b.push_line(&f, 8, b"c"), "the step is 3");
    assert!(!b.push_line(&g, 7, b"c"), "another file");
    assert_eq!(b.take().len(), 2);
    assert!(b.push_line(&g, 7, b"c"));
}
