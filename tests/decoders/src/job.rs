//! What workers, the leader and a task's log hold of a job.

use bytes::Bytes;
use common::ids::{Creation, Epoch, JobName, NodeName, TaskId};
use common::net::frame;
use job::standby::wire::{FromStandby, ToStandby};
use protocol::batch::{Batch, Builder, Wire};
use protocol::control::{Failure, Format, Peer, Report, Route, Slice, TaskPlan, ToLeader, ToWorker, Unit};
use protocol::task_log::{self, Cut, Order, Record, SourcePos, SourceRun};
use worker::task::inbox::Content;
use worker::wire;
use xxhash_rust::xxh3::xxh3_64;

/// A batch's columns, and whatever is read of a batch that was taken.
pub fn batch(data: &[u8]) {
    let frame = Bytes::copy_from_slice(data);
    if let Ok(columns) = frame::decode::<Wire<'_>>(&frame)
        && let Ok(batch) = Batch::from_wire(&columns, &frame)
    {
        read(batch);
    }
}

fn read(mut batch: Batch) {
    let again: Bytes = frame::encode(&batch.wire())
        .expect("a batch is representable")
        .into();
    let columns = frame::decode::<Wire<'_>>(&again).expect("an encoded batch");
    assert_eq!(Batch::from_wire(&columns, &again).as_ref(), Ok(&batch));
    let mut key = vec![];
    while !batch.is_empty() {
        let (len, mut seen) = (batch.len(), 0);
        batch.for_each(|_, value| seen += value.len());
        assert_eq!(seen, batch.values_joined().len());
        for i in [0, len / 2, len - 1] {
            key.clear();
            batch.key_into(i, &mut key);
            let end = batch.value_end(i);
            assert!(end >= batch.value(i).len());
            assert!(batch.value_with(0, end) > i || batch.value_with(0, end) == len);
        }
        key.clear();
        batch.value_ends_into(len, &mut key);
        batch.skip(len.div_ceil(2));
    }
}

pub fn batch_seeds() -> Vec<Vec<u8>> {
    let encode = |b: &Batch| frame::encode(&b.wire()).expect("a batch is representable");
    batches().iter().map(encode).collect()
}

fn batches() -> Vec<Batch> {
    let mut builder = Builder::new();
    for (key, value) in [("a", "one"), ("", ""), ("long key", "three")] {
        builder.push(key.as_bytes(), value.as_bytes());
    }
    let spelled = builder.take();
    let file = Bytes::from_static(b"logs/app.log");
    for line in [4, 7, 10, 13] {
        assert!(builder.push_line(&file, line, b"a line"));
    }
    let lines = builder.take();
    let mut later = lines.clone();
    later.skip(2);
    vec![Batch::empty(), spelled, lines, later]
}

/// Frames between two workers.
pub fn data(data: &[u8]) {
    if let Ok(item) = wire::decode_data(&Bytes::copy_from_slice(data))
        && let Content::Tuples(batch) = item.content
    {
        read(batch);
    }
}

pub fn data_seeds() -> Vec<Vec<u8>> {
    let route = Route {
        version: 3,
        tasks: vec![TaskId::new(2, 0), TaskId::new(2, 5)],
    };
    let mut seeds: Vec<Vec<u8>> = batches()
        .iter()
        .map(|b| wire::encode_data(70_000, 1_764_000_000_000_000, false, b).into())
        .collect();
    seeds.push(wire::encode_data(5, 0, true, &Batch::empty()).into());
    seeds.push(wire::encode_mark(9, &route).into());
    seeds
}

/// Messages of a control connection, both ways.
pub fn control(data: &[u8]) {
    // Compared as text: a rate may be no number, which is not equal to itself.
    if let Ok(message) = frame::decode::<ToLeader>(data) {
        let again = frame::encode(&message).expect("what was decoded is representable");
        let back = frame::decode::<ToLeader>(&again).expect("what was encoded");
        assert_eq!(format!("{back:?}"), format!("{message:?}"));
    }
    if let Ok(message) = frame::decode::<ToWorker>(data) {
        let again = frame::encode(&message).expect("what was decoded is representable");
        assert_eq!(frame::decode::<ToWorker>(&again).ok(), Some(message));
    }
}

/// Messages between a leader and its standby, both ways.
pub fn standby(data: &[u8]) {
    if let Ok(message) = frame::decode::<FromStandby>(data) {
        let again = frame::encode(&message).expect("what was decoded is representable");
        assert_eq!(frame::decode::<FromStandby>(&again).ok(), Some(message));
    }
    if let Ok(message) = frame::decode::<ToStandby>(data) {
        let again = frame::encode(&message).expect("what was decoded is representable");
        assert_eq!(frame::decode::<ToStandby>(&again).ok(), Some(message));
    }
}

pub fn standby_seeds() -> Vec<Vec<u8>> {
    let said = [
        FromStandby::Register {
            job: JobName::new("j").expect("a name"),
            node: NodeName::new("n1").expect("a name"),
            pid: 7,
        },
        FromStandby::Beat { late_ms: 9 },
    ];
    let heard = [
        ToStandby::Beat { late_ms: 9, rank: 1 },
        ToStandby::Finish { why: "done".into() },
        ToStandby::OtherJob,
    ];
    let said = said
        .iter()
        .map(|message| frame::encode(message).expect("representable"));
    let heard = heard
        .iter()
        .map(|message| frame::encode(message).expect("representable"));
    said.chain(heard).collect()
}

pub fn control_seeds() -> Vec<Vec<u8>> {
    let task = TaskId::new(1, 2);
    let addr = ([127, 0, 0, 1], 4000).into();
    let job = JobName::new("j").expect("a name");
    let route = Route {
        version: 2,
        tasks: vec![task],
    };
    let slice = Slice {
        file: "f".into(),
        creation: Some(Creation(u64::MAX)),
        label: None,
        start: 1,
        end: 2,
        newlines_before: 3,
    };
    let plan = TaskPlan {
        job: job.clone(),
        task,
        epoch: Epoch(3),
        exactly_once: true,
        op: None,
        slices: vec![slice.clone()],
        upstream: vec![TaskId::new(0, 0)],
        downstream: vec![],
        scales: true,
        route: 1,
        routes: vec![route.clone()],
        marks: true,
        owned: Some(Route::default()),
        stages_behind: 1,
        dest: Some("d".into()),
        dest_creation: None,
        format: Format::Tsv,
        rate_milli: 0,
        op_timeout_ms: 1,
        follow: true,
        keep_logs: false,
        drain: false,
        skip: vec![],
        poison: Some("d.poison".into()),
        careful: false,
        resume_from: Some(SourcePos::default()),
    };
    let to_worker = [
        ToWorker::Plan(Box::new(plan)),
        ToWorker::Peers(vec![Peer {
            task,
            epoch: Epoch(1),
            addr,
        }]),
        ToWorker::Beat { late_ms: 9 },
        ToWorker::Rate(20_000),
        ToWorker::Upstream(vec![task]),
        ToWorker::Route(route),
        ToWorker::Slices(vec![slice]),
        ToWorker::Drain,
        ToWorker::Refused { why: "older".into() },
    ];
    let report = Report {
        latency_us: vec![(1, 2)],
        arrived: Some(SourcePos::default()),
        in_per_s: 1.5,
        ..Report::default()
    };
    let to_leader = [
        ToLeader::Register {
            job,
            task,
            epoch: Epoch(2),
            node: NodeName::new("n1").expect("a name"),
            pid: 77,
            data_addr: addr,
        },
        ToLeader::Started { replayed: 4 },
        ToLeader::Beat(report),
        ToLeader::Failed(Failure {
            what: "it died".into(),
            key: Some("k".into()),
            unit: Some(Unit {
                from: task,
                number: 7,
            }),
            stderr: vec!["last words".into()],
            fatal: false,
        }),
        ToLeader::Knows(vec![task]),
    ];
    let to_worker = to_worker.iter().map(frame::encode);
    let messages = to_worker.chain(to_leader.iter().map(frame::encode));
    messages.map(|m| m.expect("a message is representable")).collect()
}

/// A log as it is, and its bytes as one record's body: with a right checksum in front.
pub fn task_log(data: &[u8]) {
    read_log(data);
    let mut log = (data.len() as u32).to_be_bytes().to_vec();
    log.extend_from_slice(&xxh3_64(data).to_be_bytes());
    log.extend_from_slice(data);
    read_log(&log);
}

fn read_log(log: &[u8]) {
    let records: Vec<_> = task_log::records(log).map_while(Result::ok).collect();
    let mut again = vec![];
    for (at, record) in &records {
        assert!(*at < log.len());
        if let Record::Tuples { frame, .. } = record {
            let _ = wire::decode_data(frame);
        }
        task_log::encode(record, &mut again);
    }
    let back: Vec<_> = task_log::decode_all(&again).expect("what was encoded");
    assert!(back.iter().eq(records.iter().map(|(_, record)| record)));
}

pub fn task_log_seeds() -> Vec<Vec<u8>> {
    let from = TaskId::new(0, 1);
    let run = SourceRun {
        slice: 0,
        creation: None,
        from: 0,
        to: 90,
        first_line: 1,
        lines: 3,
        last: false,
        growing: true,
    };
    let orders = [
        Order::Input {
            from,
            start: 0,
            end: 9,
        },
        Order::InputEnd { from, at: 9 },
        Order::Source(run),
        Order::Finish,
        Order::Route {
            version: 2,
            tasks: vec![from],
        },
        Order::Mark {
            from,
            at: 3,
            version: 2,
            tasks: vec![from],
        },
        Order::Adopt {
            from,
            start: 1,
            end: 2,
        },
        Order::HandOver {
            version: 2,
            to: vec![from],
        },
    ];
    let mut cut = Cut {
        version: task_log::CUT_VERSION,
        emitted: vec![1, 2],
        snapshot: vec![(0, 10)],
        ..Cut::default()
    };
    orders.iter().for_each(|order| cut.consume(order));
    let mut records: Vec<Record> = orders
        .into_iter()
        .map(|order| Record::Order { pos: 1, order })
        .collect();
    records.push(Record::Began {
        epoch: Epoch(1),
        pos: 0,
    });
    records.push(Record::Checkpoint(Box::new(cut)));
    records.push(Record::Production {
        pos: 1,
        output: 0,
        start: 5,
        end: 9,
        tuples: 1,
        born_us: 3,
        payload: Bytes::from_static(b"out\tput\n"),
    });
    records.push(Record::Tuples {
        pos: 2,
        frame: data_seeds().remove(1).into(),
    });
    let mut seeds = vec![vec![]];
    for record in &records {
        let mut one = vec![];
        task_log::encode(record, &mut one);
        seeds[0].extend_from_slice(&one);
        seeds.push(one[12..].to_vec());
        seeds.push(one);
    }
    seeds
}
