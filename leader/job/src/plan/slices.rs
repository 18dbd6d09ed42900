//! Which bytes of which files each source task reads.
//!
//! The files are laid end to end in the order of their names and cut into pieces of about the same size. A cut lies
//! between two files or, in a large file, at one of HyDFS's line marks: places before which the number of newlines is
//! known.

use std::collections::BTreeMap;

use common::ids::Creation;
use hydfs::client::LineMark;
use protocol::control::Slice;

use super::OPEN;

/// Files shorter than this are not split.
pub const SPLIT_FROM: u64 = 1024 * 1024;

/// A file that sources may read: a name, and which file of that name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceFile {
    pub name: String,
    pub creation: Creation,
}

/// An input file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub file: SourceFile,
    pub len: u64,
    /// Where it may be split; looked up for files of at least [`SPLIT_FROM`] bytes.
    pub marks: Vec<LineMark>,
}

/// A place where one task's piece may end and the next begin.
#[derive(Clone, Copy)]
struct Cut {
    /// Position in all files laid end to end.
    at: u64,
    file: usize,
    mark: LineMark,
}

/// Shares the files' bytes out over at most `most` source tasks; at least one, even when there is nothing to read.
/// Every byte of every file is in exactly one slice.
pub fn slices(inputs: &[Input], most: u16) -> Vec<Vec<Slice>> {
    let mut inputs: Vec<&Input> = inputs.iter().filter(|i| i.len > 0).collect();
    inputs.sort_by(|a, b| a.file.cmp(&b.file));
    let total: u64 = inputs.iter().map(|i| i.len).sum();
    let cuts = cuts(&inputs);
    let n = (cuts.len() as u64).clamp(1, u64::from(most.max(1)));

    let mut tasks = vec![];
    let mut from = 0; // index of the cut where the next piece begins
    for k in 1..=n {
        let to = if k == n {
            cuts.len()
        } else {
            let target = (u128::from(total) * u128::from(k) / u128::from(n)) as u64;
            // The pieces still to come each keep a cut of their own.
            let room = cuts.len() - (n - k) as usize;
            nearest(&cuts, target).clamp(from + 1, room)
        };
        tasks.push(piece(&inputs, &cuts, from, to));
        from = to;
    }
    tasks
}

/// The same for files that may still grow: exactly `tasks` tasks, however little there is; each file's last slice is open,
/// and so is that of a file that is empty so far.
pub fn follow(inputs: &[Input], tasks: u16) -> Vec<Vec<Slice>> {
    let settled: Vec<Input> = inputs.iter().map(settled).collect();
    let mut all = slices(&settled, tasks);
    all.resize(usize::from(tasks.max(1)), vec![]);
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for slice in all.iter().flatten() {
        let start = last.entry(slice.file.clone()).or_default();
        *start = slice.start.max(*start);
    }
    for slice in all.iter_mut().flatten() {
        if last.get(&slice.file) == Some(&slice.start) {
            slice.end = OPEN;
        }
    }
    for input in inputs.iter().filter(|i| i.len == 0) {
        let task = fewest(all.iter().map(Vec::len));
        if let Some(slices) = all.get_mut(task) {
            slices.push(whole(&input.file));
        }
    }
    all
}

/// A file's one slice, open.
pub fn whole(file: &SourceFile) -> Slice {
    Slice {
        file: file.name.clone(),
        creation: Some(file.creation),
        label: None,
        start: 0,
        end: OPEN,
        newlines_before: 0,
    }
}

/// The index of the least, the first of several.
pub fn fewest(counts: impl Iterator<Item = usize>) -> usize {
    counts.enumerate().min_by_key(|(_, n)| *n).map_or(0, |(i, _)| i)
}

/// Without the marks in its last line, which may not be whole yet: who reads up to there would take what there is of it
/// for all.
fn settled(input: &Input) -> Input {
    let newlines = input.marks.last().map_or(0, |m| m.newlines_before);
    let whole = input.marks.iter().filter(|m| m.newlines_before < newlines);
    Input {
        marks: whole.copied().collect(),
        ..input.clone()
    }
}

fn cuts(inputs: &[&Input]) -> Vec<Cut> {
    let mut cuts = vec![];
    let mut before = 0;
    for (file, input) in inputs.iter().enumerate() {
        let start = LineMark {
            offset: 0,
            newlines_before: 0,
        };
        cuts.push(Cut {
            at: before,
            file,
            mark: start,
        });
        let mut last = 0;
        for mark in input.marks.iter().filter(|_| input.len >= SPLIT_FROM) {
            if mark.offset > last && mark.offset < input.len {
                last = mark.offset;
                cuts.push(Cut {
                    at: before + mark.offset,
                    file,
                    mark: *mark,
                });
            }
        }
        before += input.len;
    }
    cuts
}

/// The index of the cut nearest to `target`.
fn nearest(cuts: &[Cut], target: u64) -> usize {
    let i = cuts.partition_point(|c| c.at < target);
    match (i.checked_sub(1).and_then(|p| cuts.get(p)), cuts.get(i)) {
        (Some(below), Some(above)) if target - below.at < above.at - target => i - 1,
        (Some(_), None) => i - 1,
        _ => i,
    }
}

/// The slices between two cuts.
fn piece(inputs: &[&Input], cuts: &[Cut], from: usize, to: usize) -> Vec<Slice> {
    let Some(first) = cuts.get(from) else {
        return vec![];
    };
    let end = cuts.get(to);
    let last_file = end.map_or(inputs.len() - 1, |c| c.file);
    let mut out = vec![];
    for (file, input) in inputs.iter().enumerate().take(last_file + 1).skip(first.file) {
        let mark = if file == first.file {
            first.mark
        } else {
            LineMark {
                offset: 0,
                newlines_before: 0,
            }
        };
        let stop = match end {
            Some(c) if c.file == file => c.mark.offset,
            _ => input.len,
        };
        if stop > mark.offset {
            out.push(Slice {
                file: input.file.name.clone(),
                creation: Some(input.file.creation),
                label: None,
                start: mark.offset,
                end: stop,
                newlines_before: mark.newlines_before,
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn small(sizes: &[u64]) -> Vec<Input> {
        sizes
            .iter()
            .enumerate()
            .map(|(i, len)| Input {
                file: named(&format!("d/{i:05}")),
                len: *len,
                marks: vec![],
            })
            .collect()
    }

    fn named(name: &str) -> SourceFile {
        SourceFile {
            name: name.into(),
            creation: Creation(7),
        }
    }

    /// A file with a mark every `step` bytes and a newline every 10.
    fn large(name: &str, len: u64, step: u64) -> Input {
        let marks = (0..len).step_by(step as usize).map(|offset| LineMark {
            offset,
            newlines_before: offset / 10,
        });
        Input {
            file: named(name),
            len,
            marks: marks.collect(),
        }
    }

    fn covered_once(inputs: &[Input], tasks: &[Vec<Slice>]) -> Result<(), TestCaseError> {
        for input in inputs {
            let mut at = 0;
            // Tasks take the files in order, so the slices of one file follow each other.
            for s in tasks.iter().flatten().filter(|s| s.file == input.file.name) {
                prop_assert_eq!(s.start, at);
                prop_assert!(s.end > s.start);
                prop_assert_eq!(s.newlines_before, s.start / 10);
                at = s.end;
            }
            prop_assert_eq!(at, input.len);
        }
        Ok(())
    }

    fn bytes(task: &[Slice]) -> u64 {
        task.iter().map(|s| s.end - s.start).sum()
    }

    proptest! {
        #[test]
        fn every_byte_once(sizes in prop::collection::vec(0u64..4_000_000, 0..12), step in 1000u64..600_000, n in 1u16..9) {
            let inputs: Vec<Input> = sizes.iter().enumerate().map(|(i, len)| large(&format!("f{i:02}"), *len, step)).collect();
            let tasks = slices(&inputs, n);
            prop_assert!(!tasks.is_empty() && tasks.len() <= usize::from(n));
            covered_once(&inputs, &tasks)?;
            let total: u64 = sizes.iter().sum();
            prop_assert!(total == 0 || tasks.iter().all(|t| !t.is_empty()));
        }

        #[test]
        fn large_files_are_balanced_to_a_mark(len in 8_000_000u64..40_000_000, n in 1u16..9) {
            let step = 65_536;
            let inputs = [large("a", len, step), large("b", len / 2, step)];
            let tasks = slices(&inputs, n);
            prop_assert_eq!(tasks.len(), usize::from(n));
            let mean = (len + len / 2) / u64::from(n);
            for t in &tasks {
                prop_assert!(bytes(t).abs_diff(mean) <= 2 * step, "{} {}", bytes(t), mean);
            }
        }
    }

    proptest! {
        #[test]
        fn followed_files_are_covered_once_and_end_open(sizes in prop::collection::vec(0u64..4_000_000, 0..12), step in 1000u64..600_000, n in 1u16..9) {
            let inputs: Vec<Input> = sizes.iter().enumerate().map(|(i, len)| large(&format!("f{i:02}"), *len, step)).collect();
            let tasks = follow(&inputs, n);
            prop_assert_eq!(tasks.len(), usize::from(n));
            for input in &inputs {
                let mut at = 0;
                let mut of_file: Vec<&Slice> = tasks.iter().flatten().filter(|s| s.file == input.file.name).collect();
                of_file.sort_by_key(|s| s.start);
                for s in of_file {
                    prop_assert_eq!(s.start, at);
                    at = s.end;
                }
                prop_assert_eq!(at, OPEN);
            }
        }
    }

    #[test]
    fn a_growing_last_line_is_not_cut() {
        let mark = |offset, newlines_before| LineMark {
            offset,
            newlines_before,
        };
        let input = Input {
            file: named("a"),
            len: 4_000_000,
            // The second half is one line that has no end yet.
            marks: vec![
                mark(0, 0),
                mark(1_000_000, 10),
                mark(2_000_000, 20),
                mark(3_000_000, 20),
            ],
        };
        let tasks = follow(std::slice::from_ref(&input), 4);
        let all: Vec<u64> = tasks.iter().flatten().map(|s| s.start).collect();
        assert_eq!(all, [0, 1_000_000]);
        let all: Vec<u64> = slices(&[input], 4).iter().flatten().map(|s| s.start).collect();
        assert_eq!(all, [0, 1_000_000, 2_000_000, 3_000_000]);
    }

    #[test]
    fn empty_files_are_waited_for_by_those_with_the_least_to_do() {
        assert_eq!(follow(&[], 3), vec![vec![]; 3]);
        let tasks = follow(&small(&[0, 0, 7, 0]), 2);
        assert_eq!(tasks.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    }

    #[test]
    fn small_files_stay_whole_and_bound_the_tasks() {
        assert_eq!(slices(&small(&[100, 200]), 3).len(), 2);
        assert_eq!(slices(&small(&[100]), 3).len(), 1);
        let tasks = slices(&small(&[10; 10_000]), 3);
        assert_eq!(tasks.iter().map(|t| t.len()).max(), Some(3334));
        assert!(tasks.iter().flatten().all(|s| s.end - s.start == 10));
    }

    #[test]
    fn nothing_to_read_is_one_task_with_nothing_to_do() {
        assert_eq!(slices(&[], 3), [vec![]]);
        assert_eq!(slices(&small(&[0, 0]), 3), [vec![]]);
    }

    #[test]
    fn a_large_file_without_marks_stays_whole() {
        let inputs = [Input {
            file: named("a"),
            len: 50_000_000,
            marks: vec![],
        }];
        assert_eq!(slices(&inputs, 3).len(), 1);
    }
}
