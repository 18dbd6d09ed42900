//! The disk against the store in memory, over reopenings.

use proptest::prelude::*;

use super::*;
use crate::store::mem::MemStore;

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
