//! The disk against the store in memory, over reopenings; files cut and with flipped bits.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::segment::begin_of;
use super::*;
use crate::store::mem::MemStore;
use hydfs::content::{ClientId, Epoch, SegmentLimits};
use hydfs::view::{Incarnation, NodeIx};

mod trims;

const RANGE: RangeIx = RangeIx(1);
/// Segments are closed soon here.
const LIMITS: SegmentLimits = SegmentLimits {
    bytes: 600,
    entries: 5,
    dead: 100,
};

fn name(n: u8) -> FileName {
    FileName::new(format!("dir/f{n}")).unwrap()
}

fn view(n: u64) -> View {
    let mut view = View::new(2);
    view.join(NodeIx(0), Incarnation(n));
    view
}

fn facts(n: u64) -> NodeFacts {
    NodeFacts {
        born: Incarnation(n),
        whole: Incarnation(n),
        incarnation: Incarnation(n),
        view: view(n),
    }
}

fn payload(seed: u64, len: usize) -> Bytes {
    (0..len)
        .map(|i| {
            if i % 9 == 8 {
                b'\n'
            } else {
                (seed as usize * 31 + i * 7) as u8
            }
        })
        .collect()
}

fn open(folder: &Path) -> DiskStore {
    DiskStore::open(folder, Durability::Os).unwrap()
}

fn append(
    store: &mut impl Store,
    file: &FileName,
    segment: SegmentId,
    client: u64,
    bytes: &Bytes,
) -> Result<(), Error> {
    let held = store
        .file(RANGE, file)
        .ok_or_else(|| Error::NoSuchFile { file: file.clone() })?;
    let client = ClientId(client);
    let offset = held.streams.get(&client).map_or(0, |s| s.length);
    let entry = held.next_append(segment, client, Epoch(1), offset, bytes, xxh3_64(bytes));
    store.append(RANGE, file, segment, entry, bytes)
}

/// Everything that can be seen of a store.
fn seen(store: &impl Store) -> Vec<String> {
    let mut out = vec![format!("{:?} {:?}", store.node(), store.range(RANGE))];
    for (name, file) in store.files(RANGE) {
        out.push(format!("{name} {file:?}"));
        for s in &file.segments {
            let bytes = store.read(RANGE, name, s.id, 0, u64::MAX).map(|b| xxh3_64(&b));
            let part = store.read(RANGE, name, s.id, s.bytes / 3, s.bytes / 2);
            out.push(format!(
                "{} {bytes:?} {:?}",
                s.id,
                part.map(|b| (b.len(), xxh3_64(&b)))
            ));
        }
    }
    out
}

#[derive(Debug, Clone)]
enum Op {
    Create(u8),
    Remove(u8),
    Append {
        file: u8,
        client: u64,
        len: usize,
    },
    Fence {
        file: u8,
        client: u64,
    },
    /// The open segment of every file is sealed at this share of it; files of the mask are dropped; one of the mask's holes is added.
    Install {
        share: u8,
        drop: u8,
        stranger: bool,
    },
    /// To this share of the file.
    Trim {
        file: u8,
        share: u8,
    },
    DropRange,
    Lose(prop::sample::Index),
    Repair {
        step: usize,
        wrong: bool,
    },
    Facts(u64),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![4 => 0usize..300, 1 => 90_000usize..100_000];
    prop_oneof![
        3 => (0u8..4).prop_map(Op::Create),
        1 => (0u8..4).prop_map(Op::Remove),
        12 => (0u8..4, 0u64..3, len).prop_map(|(file, client, len)| Op::Append { file, client, len }),
        2 => (0u8..4, 0u64..3).prop_map(|(file, client)| Op::Fence { file, client }),
        3 => (any::<u8>(), any::<u8>(), any::<bool>()).prop_map(|(share, drop, stranger)| Op::Install { share, drop: drop & 0x11, stranger }),
        4 => (0u8..4, any::<u8>()).prop_map(|(file, share)| Op::Trim { file, share }),
        1 => Just(Op::DropRange),
        2 => any::<prop::sample::Index>().prop_map(Op::Lose),
        3 => (1usize..5, prop::bool::weighted(0.2)).prop_map(|(step, wrong)| Op::Repair { step, wrong }),
        1 => (1u64..99).prop_map(Op::Facts),
        3 => Just(Op::Reopen),
    ]
}

struct World {
    folder: tempfile::TempDir,
    disk: Option<DiskStore>,
    mem: MemStore,
    set: u64,
    count: u64,
    /// Segments that were lost, as they were.
    lost: Vec<(FileName, u64, Segment, Bytes)>,
}

impl World {
    fn both<T: std::fmt::Debug>(&mut self, mut f: impl FnMut(&mut dyn StoreObject) -> Result<T, Error>) {
        let disk = format!("{:?}", f(self.disk.as_mut().unwrap()));
        let mem = format!("{:?}", f(&mut self.mem));
        assert_eq!(disk, mem);
    }

    /// Where the next entry of the file goes, once it is trimmed so far.
    fn segment(&self, file: &FileName, base: u64) -> SegmentId {
        let view = SegmentId::of(&view(self.set));
        let held = self.mem.file(RANGE, file);
        held.map_or(view, |f| f.next_segment(view, base, LIMITS))
    }

    fn step(&mut self, op: Op) {
        self.count += 1;
        match op {
            Op::Create(n) => {
                let nonce = self.count;
                self.both(|s| s.create(RANGE, &name(n), nonce));
            }
            Op::Remove(n) => self.both(|s| s.remove(RANGE, &name(n))),
            Op::Append { file, client, len } => {
                let bytes = payload(self.count, len);
                let segment = self.segment(&name(file), 0);
                self.both(|s| s.append_next(&name(file), segment, client, &bytes));
            }
            Op::Fence { file, client } => {
                let (nonce, file) = (self.count, name(file));
                let segment = self.segment(&file, 0);
                let Some(held) = self.mem.file(RANGE, &file) else {
                    return;
                };
                let entry = held.next_fence(segment, ClientId(client), Epoch(nonce), nonce);
                self.both(|s| s.append(RANGE, &file, segment, entry, &Bytes::new()));
            }
            Op::Install {
                share,
                drop,
                stranger,
            } => self.install(share, drop, stranger),
            Op::Trim { file, share } => {
                let file = name(file);
                let length = self.mem.file(RANGE, &file).map_or(0, File::length);
                let base = length * u64::from(share) / 255;
                let next = self.segment(&file, base);
                self.both(|s| s.trim(RANGE, &file, base, next));
            }
            Op::DropRange => self.both(|s| s.drop_range(RANGE)),
            Op::Lose(which) => {
                let sealed = |f: &File| {
                    f.segments
                        .iter()
                        .filter(|s| s.sealed && !s.missing)
                        .cloned()
                        .collect::<Vec<_>>()
                };
                let all = self.mem.files(RANGE);
                let all: Vec<_> = all
                    .flat_map(|(n, f)| sealed(f).into_iter().map(move |s| (n.clone(), f.nonce, s)))
                    .collect();
                if all.is_empty() {
                    return;
                }
                let (name, nonce, segment) = all[which.index(all.len())].clone();
                let bytes = self.mem.read(RANGE, &name, segment.id, 0, u64::MAX).unwrap();
                self.both(|s| s.set_missing(RANGE, &name, segment.id));
                self.lost.push((name, nonce, segment, bytes));
            }
            Op::Repair { step, wrong } => {
                let Some((name, _, segment, bytes)) = self.lost.pop() else {
                    return;
                };
                let mut at = 0;
                for (i, piece) in segment.index.chunks(step).enumerate() {
                    let begin = begin_of(piece, 0) as usize;
                    let mut part = bytes.slice(begin..piece[piece.len() - 1].end as usize).to_vec();
                    if wrong && i == 1 {
                        part.push(1);
                        part[0] ^= 1;
                    }
                    let part = part.into();
                    self.both(|s| s.put_segment(RANGE, &name, segment.id, at, piece, &part));
                    at += piece.len() as u64;
                }
            }
            Op::Facts(n) => {
                self.both(|s| s.set_node(facts(n)));
                let facts = RangeFacts {
                    asked: vec![view(n)],
                    active: Some(view(n)),
                    ..self.mem.range(RANGE)
                };
                self.both(|s| s.set_ranges(vec![(RANGE, facts.clone())]));
            }
            Op::Reopen => {
                self.disk = None;
                self.disk = Some(open(self.folder.path()));
            }
        }
    }

    fn install(&mut self, share: u8, drop: u8, stranger: bool) {
        self.set += 1;
        let mut files = Vec::new();
        for (i, (name, file)) in self.mem.files(RANGE).enumerate() {
            if drop & (1 << i) != 0 {
                continue;
            }
            let mut target = file.head();
            for (want, have) in target.segments.iter_mut().zip(&file.segments) {
                want.sealed = true;
                if !have.sealed && !have.missing {
                    let cut = have.prefix(have.entries * u64::from(share) / 255).unwrap();
                    *want = Segment {
                        sealed: true,
                        ..cut.head()
                    };
                }
            }
            // Another source had trimmed more of it.
            let base = target.length() * u64::from(share) / 500;
            target.trim(base, SegmentId::of(&view(self.set)));
            files.push((name.clone(), target));
        }
        if stranger && files.iter().all(|(n, _)| *n != name(9)) {
            let mut file = File::new(77);
            let entry = file.next_append(
                SegmentId(1),
                ClientId(1),
                Epoch(1),
                0,
                b"elsewhere",
                xxh3_64(b"elsewhere"),
            );
            file.apply(SegmentId(1), entry);
            file.segments[0].sealed = true;
            self.lost.push((
                name(9),
                77,
                file.segments[0].clone(),
                Bytes::from_static(b"elsewhere"),
            ));
            files.push((name(9), file.head()));
        }
        let set = view(self.set);
        self.both(|s| s.install(RANGE, &set, &files));
    }
}

/// `Store` as an object, with what the test needs besides.
trait StoreObject: Store {
    fn append_next(
        &mut self,
        file: &FileName,
        segment: SegmentId,
        client: u64,
        bytes: &Bytes,
    ) -> Result<(), Error>;
}

impl<S: Store> StoreObject for S {
    fn append_next(
        &mut self,
        file: &FileName,
        segment: SegmentId,
        client: u64,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        append(self, file, segment, client, bytes)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn the_disk_remembers_what_memory_does(ops in prop::collection::vec(op(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let disk = Some(open(folder.path()));
        let mut world = World { folder, disk, mem: MemStore::default(), set: 1, count: 0, lost: vec![] };
        for op in ops.into_iter().chain([Op::Reopen]) {
            world.step(op);
            prop_assert_eq!(seen(world.disk.as_ref().unwrap()), seen(&world.mem));
        }
        let disk = world.disk.take().unwrap();
        let used: BTreeSet<u64> = disk.files.values().flat_map(BTreeMap::values).flat_map(|h| h.places.values()).map(|p| p.number).collect();
        prop_assert_eq!(segment_files(world.folder.path()).len(), used.len(), "no file is left behind");
    }
}

fn segment_files(folder: &Path) -> Vec<PathBuf> {
    let subs = std::fs::read_dir(folder.join("seg")).unwrap();
    let files = subs.flat_map(|sub| std::fs::read_dir(sub.unwrap().path()).unwrap());
    files.map(|f| f.unwrap().path()).collect()
}

/// A store with one file of three appends, and that one's segment file.
fn three() -> (tempfile::TempDir, PathBuf, Vec<Bytes>) {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    store.create(RANGE, &name(0), 5).unwrap();
    let payloads: Vec<Bytes> = (0..3).map(|i| payload(i, 40 + i as usize)).collect();
    for bytes in &payloads {
        append(&mut store, &name(0), SegmentId(7), 1, bytes).unwrap();
    }
    drop(store);
    let file = segment_files(folder.path()).pop().unwrap();
    (folder, file, payloads)
}

fn read_all(store: &DiskStore) -> Result<Bytes, Error> {
    store.read(RANGE, &name(0), SegmentId(7), 0, u64::MAX)
}

#[test]
fn a_torn_tail_is_cut_and_never_served() {
    let (folder, file, payloads) = three();
    let whole = std::fs::read(&file).unwrap();
    // The second record ends where the second payload does.
    let two = payloads[..2].concat();
    let second = whole
        .windows(payloads[1].len())
        .position(|w| w == payloads[1])
        .unwrap()
        + payloads[1].len();
    for cut in second..whole.len() {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let mut store = open(folder.path());
        assert_eq!(read_all(&store).unwrap(), two, "cut at {cut}");
        assert_eq!(store.lost_newest(), cut > second, "cut at {cut}");
        assert_eq!(
            store.file(RANGE, &name(0)).unwrap().streams[&ClientId(1)].length,
            two.len() as u64
        );
        append(&mut store, &name(0), SegmentId(7), 1, &payloads[2]).unwrap();
        drop(store);
        // Until the node has taken it into what it remembers, it is not forgotten.
        let mut store = open(folder.path());
        assert_eq!(read_all(&store).unwrap(), payloads.concat());
        assert_eq!(store.lost_newest(), cut > second, "cut at {cut}");
        store.set_node(facts(1)).unwrap();
        drop(store);
        assert!(!open(folder.path()).lost_newest());
    }
}

#[test]
fn a_flipped_bit_is_noticed_wherever_it_is() {
    let (folder, file, payloads) = three();
    let whole = std::fs::read(&file).unwrap();
    let all = payloads.concat();
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 1 << (at % 8);
        std::fs::write(&file, &bad).unwrap();
        let store = open(folder.path());
        let read = read_all(&store);
        assert!(
            matches!(read, Err(Error::Damaged { .. } | Error::Missing { .. })),
            "byte {at}: {read:?} of {}",
            all.len()
        );
        drop(store);
        // The damaged copy was given up for good or is still refused; either way begin anew.
        let fresh = three();
        std::fs::remove_dir_all(folder.path()).unwrap();
        std::fs::rename(fresh.0.keep(), folder.path()).unwrap();
    }
}

#[test]
fn the_meta_log_is_cut_where_it_is_torn_and_refused_where_it_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta");
    let mut store = open(folder.path());
    store.create(RANGE, &name(0), 1).unwrap();
    let before = std::fs::metadata(&path).unwrap().len() as usize;
    store.create(RANGE, &name(1), 2).unwrap();
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    for cut in before..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let store = open(folder.path());
        assert!(
            store.file(RANGE, &name(0)).is_some() && store.file(RANGE, &name(1)).is_none(),
            "cut at {cut}"
        );
    }
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bad).unwrap();
        assert!(
            matches!(
                DiskStore::open(folder.path(), Durability::Os),
                Err(OpenError::Damaged { .. })
            ),
            "byte {at}"
        );
    }
}

#[test]
fn after_a_boot_of_the_machine_the_newest_may_be_gone_unless_it_was_synced() {
    for durability in [Durability::Os, Durability::Fsync] {
        let folder = tempfile::tempdir().unwrap();
        let mut store = DiskStore::open(folder.path(), durability).unwrap();
        assert!(!store.lost_newest(), "a new one");
        store.set_node(facts(1)).unwrap();
        store.opened.boot = "another".into();
        store.rewrite().unwrap();
        drop(store);
        let mut store = DiskStore::open(folder.path(), durability).unwrap();
        assert_eq!(store.lost_newest(), durability == Durability::Os);
        // Nor is it forgotten when the log is written anew, before the node has heard of it.
        store.rewrite().unwrap();
        drop(store);
        let store = DiskStore::open(folder.path(), durability).unwrap();
        assert_eq!(store.lost_newest(), durability == Durability::Os);
    }
}

#[test]
fn a_folder_has_one_user() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert!(matches!(
        DiskStore::open(folder.path(), Durability::Os),
        Err(OpenError::Locked { .. })
    ));
    drop(store);
    open(folder.path());
}

#[test]
fn large_entries_are_read_in_parts_and_verified_once_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    store.create(RANGE, &name(0), 1).unwrap();
    let parts = [payload(1, 3_000_000), payload(2, 10), payload(3, 2_500_000)];
    for part in &parts {
        append(&mut store, &name(0), SegmentId(7), 1, part).unwrap();
    }
    let all = parts.concat();
    for from in (0..all.len()).step_by(700_001) {
        let got = store
            .read(RANGE, &name(0), SegmentId(7), from as u64, 1 << 20)
            .unwrap();
        assert_eq!(got, all[from..all.len().min(from + (1 << 20))]);
    }
    drop(store);
    let file = segment_files(folder.path()).pop().unwrap();
    let os = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    os.write_all_at(b"?", 2_900_000).unwrap();
    let store = open(folder.path());
    // Far from the damage, but in the same entry.
    assert!(matches!(
        store.read(RANGE, &name(0), SegmentId(7), 5, 10),
        Err(Error::Damaged { offset: 0, .. })
    ));
    assert!(
        store
            .read(RANGE, &name(0), SegmentId(7), 3_000_000, 1 << 20)
            .is_ok()
    );
}

#[test]
fn the_meta_log_is_rewritten_when_it_has_outgrown_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = DiskStore::open(folder.path(), Durability::Fsync).unwrap();
    store.create(RANGE, &name(1), 1).unwrap();
    append(&mut store, &name(1), SegmentId(7), 1, &payload(1, 100)).unwrap();
    let facts = |n| NodeFacts {
        view: View::new(2000),
        ..facts(n)
    };
    let mut most = 0;
    for n in 1..400 {
        store.set_node(facts(n)).unwrap();
        most = most.max(std::fs::metadata(folder.path().join("meta")).unwrap().len());
    }
    store.sync().unwrap();
    let before = seen(&store);
    drop(store);
    assert!((4_000_000..6_000_000).contains(&most), "{most}");
    let store = open(folder.path());
    assert_eq!(seen(&store), before);
    assert_eq!(store.node().unwrap().incarnation, Incarnation(399));
}

type Step = Box<dyn Fn(&mut dyn StoreObject) -> Result<(), Error>>;

/// With any amount of room: what was refused for want of it was not done, nothing else was lost, and it goes on where it was when there is room.
#[test]
fn a_full_disk_refuses_whole_and_goes_on_when_there_is_room() {
    let mut refused = 0;
    for left in (0..4000).step_by(23) {
        let folder = tempfile::tempdir().unwrap();
        let (mut disk, mut mem) = (open(folder.path()), MemStore::default());
        let mut steps: Vec<Step> = Vec::new();
        for i in 0..3u8 {
            steps.push(Box::new(move |s| s.create(RANGE, &name(i), u64::from(i))));
            for seed in 0..6 {
                let bytes = payload(seed, 50 + 100 * seed as usize);
                steps.push(Box::new(move |s| {
                    s.append_next(&name(i), SegmentId(7 + u128::from(seed) / 3), seed % 2, &bytes)
                }));
            }
        }
        room::set(Some(left));
        for step in steps {
            if let Err(error) = step(&mut disk) {
                assert!(matches!(error, Error::Full), "{error}");
                refused += 1;
                assert_eq!(seen(&disk), seen(&mem), "with room for {left}");
                drop(disk);
                room::set(None);
                disk = open(folder.path());
                assert_eq!(seen(&disk), seen(&mem), "with room for {left}, opened again");
                step(&mut disk).unwrap();
            }
            step(&mut mem).unwrap();
            assert_eq!(seen(&disk), seen(&mem), "with room for {left}");
        }
        room::set(None);
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn what_is_damaged_takes_no_more_entries() {
    let (folder, _, payloads) = three();
    let mut store = open(folder.path());
    store.set_missing(RANGE, &name(0), SegmentId(7)).unwrap();
    let more = append(&mut store, &name(0), SegmentId(7), 1, &payloads[0]);
    assert!(matches!(more, Err(Error::Missing { .. })), "{more:?}");
}

/// Group commit: however many entries, each segment file and the log are synced once, when asked; and a new file's name with it.
#[test]
fn fsync_is_for_all_that_was_written_since() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = DiskStore::open(folder.path(), Durability::Fsync).unwrap();
    store.create(RANGE, &name(0), 5).unwrap();
    for i in 0..10 {
        append(&mut store, &name(0), SegmentId(7), 1, &payload(i, 30)).unwrap();
    }
    assert_eq!((store.unsynced.len(), store.unsynced_folders.len()), (1, 2));
    assert!(store.meta.unsynced);
    store.sync().unwrap();
    assert!(store.unsynced.is_empty() && store.unsynced_folders.is_empty() && !store.meta.unsynced);
    // Nothing new: nothing to sync.
    store.sync().unwrap();
}
