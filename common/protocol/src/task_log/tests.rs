use super::*;
use proptest::prelude::*;

fn any_task() -> impl Strategy<Value = TaskId> {
    (0u16..4, 0u16..9).prop_map(|(s, i)| TaskId::new(s, i))
}

fn any_record() -> impl Strategy<Value = Record> {
    let order = prop_oneof![
        (any_task(), any::<u64>(), any::<u64>()).prop_map(|(from, start, end)| Order::Input {
            from,
            start,
            end
        }),
        (any_task(), any::<u64>()).prop_map(|(from, at)| Order::InputEnd { from, at }),
        any::<(u32, u64, u64, u64, u64, bool)>().prop_map(|(slice, from, to, first_line, lines, last)| {
            Order::Source(SourceRun {
                creation: None,
                slice,
                from,
                to,
                first_line,
                lines,
                last,
                growing: last,
            })
        }),
        Just(Order::Finish),
        (any::<u32>(), prop::collection::vec(any_task(), 0..4))
            .prop_map(|(version, tasks)| Order::Route { version, tasks }),
        (
            any_task(),
            any::<u64>(),
            any::<u32>(),
            prop::collection::vec(any_task(), 0..4)
        )
            .prop_map(|(from, at, version, tasks)| Order::Mark {
                from,
                at,
                version,
                tasks
            }),
        (any_task(), any::<u64>(), any::<u64>()).prop_map(|(from, start, end)| Order::Adopt {
            from,
            start,
            end
        }),
        (any::<u32>(), prop::collection::vec(any_task(), 0..4))
            .prop_map(|(version, to)| Order::HandOver { version, to }),
    ];
    let cut = (
        any::<u64>(),
        prop::collection::btree_map(any_task(), any::<u64>(), 0..4),
        prop::collection::btree_set(any_task(), 0..4),
        any::<Vec<u64>>(),
        any::<(u32, Option<u64>, u64, bool)>(),
        any::<Vec<(u64, u64)>>(),
    )
        .prop_map(
            |(pos, consumed, ended, emitted, (slice, at, line, done), snapshot)| Cut {
                version: CUT_VERSION,
                pos,
                consumed,
                ended,
                emitted,
                source: SourcePos {
                    slice,
                    at,
                    line,
                    growing: Places::from_iter([(7, LinePosition { at: pos, line: 1 })]),
                },
                done,
                snapshot,
                owned: done.then(|| Owned {
                    table: Route {
                        version: slice,
                        tasks: vec![TaskId::new(1, 0)],
                    },
                    next: at.map(|_| Route::default()),
                    marks: BTreeMap::from([(TaskId::new(0, 1), slice)]),
                }),
                ..Cut::default()
            },
        )
        .boxed();
    prop_oneof![
        (any::<u64>(), order).prop_map(|(pos, order)| Record::Order { pos, order }),
        cut.clone().prop_map(|c| Record::Checkpoint(Box::new(c))),
        (
            cut,
            any::<(u64, u64, u64)>(),
            prop::collection::vec(any_task(), 0..4)
        )
            .prop_map(|(cut, (processes, at, digest), receivers)| {
                Record::Base(Box::new(Base {
                    cut,
                    active: receivers.clone(),
                    receivers,
                    epoch: Epoch(processes),
                    processes,
                    checkpoints: at,
                    at,
                    digest,
                }))
            }),
        any::<(u64, u64)>().prop_map(|(e, pos)| Record::Began { epoch: Epoch(e), pos }),
        any::<(u64, u16, u64, Vec<u8>)>().prop_map(|(pos, output, start, payload)| Record::Production {
            pos,
            output,
            start,
            end: pos,
            tuples: start,
            born_us: pos,
            payload: payload.into(),
        }),
        any::<(u64, Vec<u8>)>().prop_map(|(pos, frame)| Record::Tuples {
            pos,
            frame: frame.into()
        }),
    ]
}

proptest! {
    #[test]
    fn records_round_trip(records in prop::collection::vec(any_record(), 0..6)) {
        let mut log = vec![];
        records.iter().for_each(|r| encode(r, &mut log));
        prop_assert_eq!(decode_all(&log).unwrap(), records.clone());
        // What stands before the damage is read, and nothing behind it.
        log.push(0);
        let read: Vec<_> = super::records(&log).collect();
        prop_assert_eq!(read.len(), records.len() + 1);
        let whole = read.iter().flatten().map(|(_, r)| r.clone()).collect::<Vec<_>>();
        prop_assert_eq!(whole, records);
        prop_assert!(read.last().is_some_and(|r| r.is_err()));
    }

    #[test]
    fn a_flipped_bit_is_found(record in any_record(), at: prop::sample::Index, bit in 0u8..8) {
        let mut log = vec![];
        encode(&record, &mut log);
        let at = at.index(log.len());
        log[at] ^= 1 << bit;
        prop_assert!(decode_all(&log).is_err());
    }
}

#[test]
fn another_versions_checkpoint_is_refused() {
    let mut log = vec![];
    encode(
        &Record::Checkpoint(Box::new(Cut {
            version: 9,
            ..Cut::default()
        })),
        &mut log,
    );
    assert_eq!(decode_all(&log), Err(Error::Version(9)));
}

#[test]
fn a_digest_is_the_same_however_the_log_is_cut_into_appends() {
    let mut log = vec![];
    let mut ends = vec![];
    for pos in 1..6 {
        encode(&Record::Began { epoch: Epoch(1), pos }, &mut log);
        ends.push(log.len());
    }
    let mut whole = Digest::default();
    whole.take(&log);
    for end in ends {
        let mut parts = Digest::default();
        parts.take(&log[..end]);
        parts.take(&log[end..]);
        assert_eq!(parts, whole);
    }
    let mut other = Digest::default();
    other.take(&log[log.len() / 5..]);
    assert_ne!(other, whole);
}

#[test]
fn nobody_goes_back_in_a_file() {
    let place = |at| LinePosition { at, line: at };
    let mut source = SourcePos::default();
    source.catch_up(&Places::from_iter([(1, place(5)), (2, place(7))]));
    source.catch_up(&Places::from_iter([(1, place(4)), (2, place(9)), (3, place(1))]));
    let growing: Vec<_> = source.growing.iter().map(|(s, p)| (*s, p.at)).collect();
    assert_eq!(growing, [(1, 5), (2, 9), (3, 1)]);
}
