//! Files cut and with flipped bits, full disks; what they share with the other tests of the disk.

use std::os::unix::fs::FileExt;

use xxhash_rust::xxh3::xxh3_64;

use super::segment::begin_of;
use super::*;
use crate::store::mem::MemStore;
use hydfs::content::{ClientId, Epoch, SegmentLimits};
use hydfs::view::{Incarnation, NodeIx};

mod alike;
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
