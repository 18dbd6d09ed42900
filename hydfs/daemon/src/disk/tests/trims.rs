//! Trims that are cut off, and what is left of segments that were closed within a view.

use super::*;

const FIRST: SegmentId = SegmentId(7);

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        std::fs::create_dir_all(to.path().join(&folder)).unwrap();
        for entry in std::fs::read_dir(from.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(path),
                false => drop(std::fs::copy(entry.path(), to.path().join(path)).unwrap()),
            }
        }
    }
    to
}

/// A file of so many appends of 150 bytes, four in a segment.
fn long(appends: u64) -> (tempfile::TempDir, DiskStore) {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    store.create(RANGE, &name(0), 5).unwrap();
    for i in 0..appends {
        append_next(&mut store, i);
    }
    (folder, store)
}

fn append_next(store: &mut DiskStore, seed: u64) {
    let segment = store
        .file(RANGE, &name(0))
        .unwrap()
        .next_segment(FIRST, 0, LIMITS);
    append(store, &name(0), segment, seed % 3, &payload(seed, 150)).unwrap();
}

fn trim(store: &mut DiskStore, base: u64) {
    let next = store
        .file(RANGE, &name(0))
        .unwrap()
        .next_segment(FIRST, base, LIMITS);
    store.trim(RANGE, &name(0), base, next).unwrap();
}

fn file(store: &DiskStore) -> File {
    store.file(RANGE, &name(0)).unwrap().clone()
}

/// Everything from the base on, as text of what each part comes to.
fn kept(store: &DiskStore) -> Vec<(SegmentId, u64)> {
    let file = file(store);
    let slices = file.slices(file.base, u64::MAX).into_iter();
    let read = |s: hydfs::content::SegmentSlice| {
        let bytes = store.read(RANGE, &name(0), s.segment, s.offset, s.len).unwrap();
        (s.segment, xxh3_64(&bytes))
    };
    slices.map(read).collect()
}

#[test]
fn a_trim_that_is_cut_off_anywhere_was_done_or_was_not() {
    let (folder, mut store) = long(14);
    let (before, kept_before) = (file(&store), kept(&store));
    let crashed = copy(folder.path());
    let log = crashed.path().join("meta");
    let old = std::fs::metadata(&log).unwrap().len() as usize;
    trim(&mut store, 1950);
    let (after, kept_after) = (file(&store), kept(&store));
    assert!(after.segments.len() < before.segments.len() && after.segments.last().unwrap().sealed);
    let whole = std::fs::read(folder.path().join("meta")).unwrap();
    let mut done = 0;
    // Its records come to be, byte by byte; the segment files go after that.
    for cut in old..=whole.len() {
        let crashed = copy(crashed.path());
        std::fs::write(crashed.path().join("meta"), &whole[..cut]).unwrap();
        for _ in 0..2 {
            let store = open(crashed.path());
            let file = file(&store);
            let want = match file.base {
                0 => (before.length(), 0, &before.streams, &kept_before),
                _ => (after.length(), after.base, &after.streams, &kept_after),
            };
            assert_eq!(
                (file.length(), file.base, &file.streams, &kept(&store)),
                want,
                "cut at {cut}"
            );
        }
        let store = open(crashed.path());
        assert_eq!(store.lost_newest(), cut != whole.len() && store.lost_newest());
        done += u64::from(file(&store) == after);
        let used: usize = store
            .files
            .values()
            .flat_map(BTreeMap::values)
            .map(|h| h.places.len())
            .sum();
        assert_eq!(segment_files(crashed.path()).len(), used);
    }
    assert_eq!(done, 1, "with the last byte");
    drop(store);
    assert_eq!(file(&open(folder.path())), after);
}

/// The bytes of segments that were closed within a view are synced by nobody: a power failure may take their ends.
#[test]
fn where_a_closed_segment_ends_too_early_the_order_ends() {
    let (folder, mut store) = long(14);
    trim(&mut store, 700);
    let whole = file(&store);
    assert_eq!(
        whole.segments.iter().map(|s| s.id.part()).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    let places = &store.files[&RANGE][&name(0)].places;
    let second = folder
        .path()
        .join("seg/000000")
        .join(format!("{:012x}.seg", places[&FIRST.with_part(2)].number));
    drop(store);
    let bytes = std::fs::read(&second).unwrap();
    for cut in (0..bytes.len()).step_by(7) {
        let crashed = copy(folder.path());
        let path = crashed.path().join(second.strip_prefix(folder.path()).unwrap());
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let mut entries = None;
        for _ in 0..3 {
            let store = open(crashed.path());
            assert!(store.lost_newest(), "cut at {cut}");
            let file = file(&store);
            let there = file.position(FIRST);
            assert_eq!(
                *entries.get_or_insert(there),
                there,
                "the second start finds what the first left"
            );
            assert!(((1, 4)..(3, 0)).contains(&there) && file.base == 700, "{there:?}");
            // Streams are what the entries come to.
            let total: u64 = file.streams.values().map(|s| s.length).sum();
            assert_eq!(total, file.length(), "cut at {cut}");
            assert_eq!(kept(&store).is_empty(), file.length() <= 700);
        }
    }
    // Gone altogether.
    std::fs::remove_file(&second).unwrap();
    let store = open(folder.path());
    assert!(store.lost_newest() && file(&store).length() == 1200);
}

#[test]
fn a_closed_segment_that_is_damaged_is_missing_and_known() {
    let (folder, store) = long(14);
    let whole = file(&store);
    let number = store.files[&RANGE][&name(0)].places[&FIRST.with_part(1)].number;
    let path = folder
        .path()
        .join("seg/000000")
        .join(format!("{number:012x}.seg"));
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    // The head of its second record.
    let at = bytes.len() / 2;
    bytes[at - 150..at].fill(0x55);
    std::fs::write(&path, bytes).unwrap();
    for _ in 0..2 {
        let store = open(folder.path());
        let file = file(&store);
        assert!(file.segments[1].missing && !store.lost_newest());
        assert_eq!(
            (file.length(), file.position(FIRST), &file.streams),
            (2100, whole.position(FIRST), &whole.streams)
        );
    }
}

/// What a node comes back with is dropped if it was trimmed meanwhile, on its disk, too.
#[test]
fn a_node_that_was_away_during_a_trim_drops_what_was_trimmed() {
    let (folder, mut store) = long(14);
    let mut target = file(&store).head();
    target.segments.iter_mut().for_each(|s| s.sealed = true);
    target.trim(1900, SegmentId(8));
    store
        .install(RANGE, &view(8), &[(name(0), target.clone())])
        .unwrap();
    for _ in 0..2 {
        let file = file(&store);
        assert_eq!(
            (file.base, file.dropped, file.length()),
            (1900, target.dropped, 2100)
        );
        assert!(!file.misses() && segment_files(folder.path()).len() == file.segments.len());
        drop(store);
        store = open(folder.path());
    }
}

/// A data folder of a version that knew of no trims.
#[test]
fn records_without_a_base_are_of_files_that_were_never_trimmed() {
    #[derive(serde::Serialize)]
    struct OldFile {
        nonce: u64,
        segments: Vec<Segment>,
        streams: BTreeMap<ClientId, u8>,
    }
    let old = OldFile {
        nonce: 5,
        segments: vec![Segment::open(SegmentId(3))],
        streams: BTreeMap::new(),
    };
    let bytes = rmp_serde::to_vec_named(&old).unwrap();
    let file: File = rmp_serde::from_slice(&bytes).unwrap();
    assert_eq!((file.nonce, file.base, file.dropped), (5, 0, Default::default()));
    assert_eq!(file.segments[0].id, SegmentId(3));
}

/// Found by fuzzing: the log names a segment of which not even the head came to be.
#[test]
fn a_segment_that_never_had_a_byte_is_no_damage_at_the_second_start_either() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    store.create(RANGE, &name(0), 5).unwrap();
    append(&mut store, &name(0), FIRST, 1, &payload(1, 40)).unwrap();
    drop(store);
    std::fs::write(segment_files(folder.path()).pop().unwrap(), []).unwrap();
    for _ in 0..3 {
        let store = open(folder.path());
        assert!(file(&store).segments.is_empty() && segment_files(folder.path()).is_empty());
    }
}

#[test]
fn a_take_over_is_written_down_on_a_full_disk() {
    let (folder, mut store) = long(14);
    let mut target = file(&store).head();
    target.segments.iter_mut().for_each(|s| s.sealed = true);
    target.trim(700, SegmentId(8));
    room::set(Some(0));
    let installed = store.install(RANGE, &view(8), &[(name(0), target.clone())]);
    room::set(None);
    assert_eq!(installed.unwrap(), 0);
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.range(RANGE).installed, Some(view(8)));
    assert_eq!(file(&store).base, 700);
}

/// On a full disk a snapshot of the log has no room, and must not take what there is.
#[test]
fn a_log_that_cannot_be_rewritten_goes_on_and_leaves_nothing() {
    let (folder, mut store) = long(14);
    room::set(Some(100));
    let failed = store.rewrite();
    room::set(None);
    assert!(failed.is_err() && !folder.path().join("meta.new").exists());
    append_next(&mut store, 14);
    store.rewrite().unwrap();
    let before = file(&store);
    drop(store);
    assert_eq!(file(&open(folder.path())), before);
}

/// With durability `os`, too: what is left is on the disk before what it stands for goes.
#[test]
fn what_a_trim_leaves_is_synced_before_segments_go() {
    let (_folder, mut store) = long(14);
    trim(&mut store, 1);
    assert!(store.kept_synced.is_empty(), "nothing is dropped");
    trim(&mut store, 700);
    let closed = |store: &DiskStore| {
        let held = &store.files[&RANGE][&name(0)];
        let closed = held.file.segments.iter().filter(|s| s.sealed);
        closed
            .map(|s| held.places[&s.id].number)
            .collect::<BTreeSet<u64>>()
    };
    assert_eq!(
        (store.kept_synced.len(), &store.kept_synced),
        (2, &closed(&store))
    );
    trim(&mut store, 1300);
    assert_eq!(store.kept_synced, closed(&store));
}

#[test]
fn a_trim_is_carried_out_on_a_full_disk() {
    let (folder, mut store) = long(14);
    store.trim(RANGE, &name(0), 1, FIRST).unwrap();
    room::set(Some(0));
    let refused = append(&mut store, &name(0), FIRST.with_part(3), 1, &payload(1, 40));
    trim(&mut store, 1950);
    room::set(None);
    assert!(matches!(refused, Err(Error::Full)), "{refused:?}");
    drop(store);
    assert_eq!(file(&open(folder.path())).base, 1950);
}
