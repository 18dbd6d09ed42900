//! What HyDFS reads from clients, from other storage nodes, and from its disk.

use std::path::Path;

use bytes::Bytes;
use common::cluster::Durability;
use common::ids::Epoch;
use common::net::frame;
use hydfs::content::{ClientId, EntryMeta, File, FileName, Kind, Segment, SegmentId};
use hydfs::ring::RangeIx;
use hydfs::view::{Incarnation, NodeIx, View};
use hydfs::wire::client::{Attach, Frame, Refusal, Reply, Request, ToClient, ToNode, Writer};
use hydfsd::disk::DiskStore;
use hydfsd::store::{Memory, NodeFacts, RangeFacts, Store};
use hydfsd::wire::fragment::Assembler;
use hydfsd::wire::peer::{Message, Parts, RangeAnswer, RangeInstall, RangeOp, Standing};
use xxhash_rust::xxh3::xxh3_64;

pub fn client(data: &[u8]) {
    if let Ok(message) = frame::decode::<ToNode<'_>>(data) {
        let again = Frame::to_node(&message)
            .expect("what was decoded is representable")
            .head;
        let back = frame::decode::<ToNode<'_>>(&again).expect("what was encoded");
        assert_eq!(format!("{back:?}"), format!("{message:?}"));
    }
    if let Ok(message) = frame::decode::<ToClient<'_>>(data) {
        let again = Frame::to_client(&message)
            .expect("what was decoded is representable")
            .head;
        let back = frame::decode::<ToClient<'_>>(&again).expect("what was encoded");
        assert_eq!(format!("{back:?}"), format!("{message:?}"));
    }
}

pub fn client_seeds() -> Vec<Vec<u8>> {
    let file = || "logs/app.log".to_string();
    let requests = [
        Request::Create {
            file: file(),
            nonce: 1,
        },
        Request::Read {
            file: file(),
            of: None,
            offset: 1 << 40,
            len: 1 << 20,
            any: true,
        },
        Request::Fence {
            file: file(),
            of: None,
            client: "s1t0".into(),
            epoch: Epoch(4),
            nonce: 2,
        },
        Request::Trim {
            file: file(),
            of: None,
            base: 1 << 40,
            by: Some(Writer {
                client: "s1t0".into(),
                epoch: Epoch(4),
                nonce: 2,
            }),
        },
        Request::Ring,
        Request::Fetch {
            file: file(),
            nonce: 9,
            segment: Segment::open(SegmentId(u128::MAX)),
            at: 3,
        },
    ];
    let replies = [
        Reply::Done,
        Reply::Marks {
            marks: vec![(0, 0), (100, 3)],
            more: false,
        },
        Reply::Coordinator {
            node: Some(NodeIx(2)),
        },
        Reply::Trimmed { base: 7 },
        Reply::Refused(Refusal::Trimmed { base: 7 }),
        Reply::Refused(Refusal::Damaged {
            offset: 5,
            why: "checksum".into(),
        }),
    ];
    let whole = |f: Result<Frame, common::net::Error>| {
        let frame = f.expect("a message is representable");
        [frame.head.as_slice(), &frame.payload].concat()
    };
    let mut seeds = vec![];
    seeds.extend(
        requests
            .into_iter()
            .map(|r| whole(Frame::to_node(&ToNode::Call(7, r)))),
    );
    seeds.extend(
        replies
            .into_iter()
            .map(|r| whole(Frame::to_client(&ToClient::Reply(7, r)))),
    );
    let attach = Attach {
        file: file(),
        client: "s1t0".into(),
        epoch: Epoch(1),
        nonce: 3,
    };
    seeds.push(whole(Frame::to_node(&ToNode::Attach(1, attach))));
    let payload = || Bytes::from_static(b"some\nlines\n");
    seeds.push(whole(Frame::append(1, 300, payload())));
    seeds.push(whole(Frame::data(7, 0, 11, payload())));
    seeds.push(whole(Frame::entries(7, vec![entry(11)], payload())));
    seeds
}

fn entry(len: u32) -> EntryMeta {
    EntryMeta {
        kind: Kind::Append,
        client: ClientId(u64::MAX),
        epoch: Epoch(1),
        offset: 0,
        len,
        checksum: 77,
        newlines: 2,
        end: u64::from(len),
    }
}

/// Frames of one connection, cut where the input says: two bytes of length before each. The same bytes as one message, too.
pub fn peer(data: &[u8]) {
    let mut assembler = Assembler::default();
    let mut rest = data;
    while let Some((len, more)) = rest.split_first_chunk::<2>() {
        let (frame, more) = more.split_at(usize::from(u16::from_be_bytes(*len)).min(more.len()));
        rest = more;
        match assembler.take(Bytes::copy_from_slice(frame)) {
            Ok(Some(message)) => read(&message),
            Ok(None) => {}
            Err(_) => break,
        }
    }
    read(&Bytes::copy_from_slice(data));
}

fn read(frame: &Bytes) {
    if let Ok(message) = Message::decode(frame) {
        let again = joined(&message.encode().expect("what was decoded is representable"));
        assert_eq!(Message::decode(&again).ok(), Some(message));
    }
}

fn joined(parts: &Parts) -> Bytes {
    let parts = std::iter::once(&parts.head).chain(&parts.payloads);
    parts.flat_map(|p| p.iter().copied()).collect::<Vec<u8>>().into()
}

fn view() -> View {
    let mut view = View::new(3);
    view.join(NodeIx(0), Incarnation(3));
    view.join(NodeIx(2), Incarnation(1_764_000_000_000));
    view.fail(NodeIx(1), Incarnation(8));
    view
}

fn file() -> (FileName, File) {
    let mut file = File::new(3);
    let id = SegmentId::of(&view());
    file.apply(id, file.next_fence(id, ClientId(1), Epoch(2), 5));
    (FileName::new("a/b").expect("a name"), file)
}

pub fn peer_seeds() -> Vec<Vec<u8>> {
    let (range, view, (name, file)) = (RangeIx(2), view(), file());
    let id = view.id();
    let append = RangeOp::Append {
        file: name.clone(),
        part: 0,
        client: ClientId(9),
        epoch: Epoch(1),
        offset: 5,
        checksum: 6,
        payload: Bytes::from_static(b"some bytes"),
    };
    let trim = RangeOp::Trim {
        file: name.clone(),
        nonce: 3,
        base: 1 << 40,
        part: 7,
    };
    let fence = RangeOp::Fence {
        file: name.clone(),
        part: 1,
        client: ClientId(9),
        epoch: Epoch(3),
        nonce: u64::MAX,
    };
    let messages = [
        Message::Short { short: true },
        Message::Know { view: view.clone() },
        Message::Ask {
            view: view.clone(),
            ranges: vec![range],
        },
        Message::Answer {
            view: view.clone(),
            memory: Memory {
                born: Incarnation(1),
                whole: Incarnation(2),
            },
            ranges: vec![RangeAnswer {
                range,
                installed: Some(view.clone()),
                asked: vec![view.clone()],
                files: vec![(name.clone(), file.head())],
            }],
        },
        Message::Install {
            view,
            ranges: vec![RangeInstall {
                range,
                files: vec![(name, file.head())],
                holders: vec![NodeIx(1)],
            }],
        },
        Message::Installed {
            view: id,
            ranges: vec![(range, true)],
        },
        Message::Replicate {
            view: id,
            range,
            first: 7,
            ops: vec![append.clone(), fence, trim, append],
            commit: 3,
            probe: 1,
        },
        Message::Ack {
            view: id,
            range,
            seq: 8,
            probe: 1,
            standing: Standing::Gap,
        },
    ];
    let encoded = messages
        .iter()
        .map(|m| joined(&m.encode().expect("a message is representable")));
    let mut seeds: Vec<Vec<u8>> = encoded.map(Vec::from).collect();
    // As frames of one connection, and one message in two fragments.
    let frame = |bytes: &[u8]| [(bytes.len() as u16).to_be_bytes().as_slice(), bytes].concat();
    seeds.push(seeds.iter().flat_map(|s| frame(s)).collect());
    let (first, second) = seeds[3].split_at(20);
    let fragment = |at: usize, piece: &[u8]| {
        let total = (first.len() + second.len()) as u64;
        let head = [
            u32::MAX.to_be_bytes().as_slice(),
            &total.to_be_bytes(),
            &(at as u64).to_be_bytes(),
        ]
        .concat();
        frame(&[head.as_slice(), piece].concat())
    };
    seeds.push([fragment(0, first), fragment(first.len(), second)].concat());
    seeds
}

/// The files of a data folder: the meta log and one segment file, with the length of the first in front. What a record's
/// checksums stand for is put right first, so that what lies behind them is read.
pub fn disk(data: &[u8]) {
    let Some((len, rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let (meta, segment) = rest.split_at(usize::from(u16::from_be_bytes(*len)).min(rest.len()));
    open(meta, segment);
    open(&mended(meta), &mended(segment));
}

/// Eight bytes of magic, then records: each head gets the checksums that belong to its length and body.
fn mended(file: &[u8]) -> Vec<u8> {
    const HEAD: usize = 16;
    let mut file = file.to_vec();
    let mut at = 8;
    while let Some(len) = file.get(at..).and_then(|f| f.first_chunk::<4>()).copied() {
        let body = at + HEAD..at.saturating_add(HEAD + u32::from_le_bytes(len) as usize);
        let Some(sum) = file.get(body.clone()).map(xxh3_64) else {
            break;
        };
        let check = xxhash_rust::xxh3::xxh3_64_with_seed(&len, 0x0048_5944_4653) as u32;
        file[at + 4..at + 8].copy_from_slice(&check.to_le_bytes());
        file[at + 8..at + HEAD].copy_from_slice(&sum.to_le_bytes());
        at = body.end;
    }
    file
}

const SEGMENT: &str = "seg/000000/000000000001.seg";

fn open(meta: &[u8], segment: &[u8]) {
    let folder = folder();
    let at = folder.path().join(SEGMENT);
    std::fs::create_dir_all(at.parent().expect("it is in a folder")).expect("a folder of our own");
    std::fs::write(folder.path().join("meta"), meta).expect("a file of our own");
    std::fs::write(at, segment).expect("a file of our own");
    for _ in 0..2 {
        let Ok(store) = DiskStore::open(folder.path(), Durability::Os) else {
            return;
        };
        read_all(&store);
    }
}

/// In memory where the system has such a folder.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    made.expect("a folder for temporary files")
}

fn read_all(store: &DiskStore) {
    for range in (0..4).map(RangeIx) {
        for (name, file) in store.files(range) {
            for segment in &file.segments {
                let _ = store.read(range, name, segment.id, 0, 1 << 20);
                let _ = store.read(range, name, segment.id, segment.bytes / 2, 1);
            }
        }
    }
}

pub fn disk_seeds() -> Vec<Vec<u8>> {
    let folder = folder();
    let mut store = DiskStore::open(folder.path(), Durability::Os).expect("an empty folder");
    let range = RangeIx(1);
    let (name, _) = file();
    fill(&mut store, range, &name).expect("room for some bytes");
    drop(store);
    let read = |path: &str| std::fs::read(folder.path().join(path)).unwrap_or_default();
    let (meta, segment) = (read("meta"), read(SEGMENT));
    assert!(!segment.is_empty(), "the first segment file has another name");
    let both =
        |meta: &[u8], segment: &[u8]| [(meta.len() as u16).to_be_bytes().as_slice(), meta, segment].concat();
    vec![
        both(&meta, &segment),
        both(&meta, &[]),
        both(&meta[..meta.len() - 9], &segment),
    ]
}

fn fill(store: &mut DiskStore, range: RangeIx, name: &FileName) -> Result<(), hydfsd::store::Error> {
    let facts = NodeFacts {
        born: Incarnation(1),
        whole: Incarnation(1),
        incarnation: Incarnation(2),
        view: view(),
    };
    store.set_node(facts)?;
    let facts = RangeFacts {
        installed: Some(view()),
        ..RangeFacts::default()
    };
    store.set_ranges(vec![(range, facts)])?;
    store.create(range, name, 5)?;
    let payload = Bytes::from_static(b"some\nlines\n");
    let first = SegmentId::of(&view());
    for n in 0..4 {
        let file = store.file(range, name).cloned().unwrap_or_else(|| File::new(5));
        // The last one goes into a segment of its own: the one before is closed.
        let id = first.with_part(u32::from(n == 3));
        let offset = n * payload.len() as u64;
        let entry = file.next_append(id, ClientId(3), Epoch(1), offset, &payload, xxh3_64(&payload));
        store.append(range, name, id, entry, &payload)?;
    }
    // Nothing is dropped yet: the first segment file is there.
    store.trim(range, name, 5, first)?;
    store.sync()
}
