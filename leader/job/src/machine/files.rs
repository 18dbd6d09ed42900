//! Which files a job that follows has given to its sources. A name that is removed and made anew is another file: it is
//! read from its first byte, and its lines' keys name it apart. Pure.

use std::collections::{BTreeMap, BTreeSet};

use common::ids::Creation;
use protocol::control::Slice;

use crate::plan::{Plan, SourceFile, fewest, whole};

/// What the sources read, and whether more comes. What is being stored counts.
pub(super) struct Intake {
    given: GivenFiles,
    /// By source task: how many slices it has.
    slices: Vec<usize>,
    draining: bool,
}

impl Intake {
    pub fn of(plan: &Plan) -> Self {
        Self {
            given: GivenFiles::of(plan.sources.iter().flatten()),
            slices: plan.sources.iter().map(Vec::len).collect(),
            draining: plan.drain,
        }
    }

    /// The sources were told to end, or are about to be.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// False when that was so.
    pub fn drain(&mut self) -> bool {
        !std::mem::replace(&mut self.draining, true)
    }

    /// Those that are new, by the source task that is to have them: the one with the fewest.
    pub fn assign(&mut self, files: Vec<SourceFile>) -> BTreeMap<u16, Vec<Slice>> {
        let mut more: BTreeMap<u16, Vec<Slice>> = BTreeMap::new();
        for file in files {
            let Some(slice) = self.given.admit(file) else {
                continue;
            };
            let task = fewest(self.slices.iter().copied());
            if let Some(count) = self.slices.get_mut(task) {
                *count += 1;
                more.entry(task as u16).or_default().push(slice);
            }
        }
        more
    }
}

/// Grows with the number of files that the job has ever read, as its plan does.
#[derive(Debug, Default)]
struct GivenFiles {
    /// By name: all the files that had it. `None`: of a journal that does not say which.
    files: BTreeMap<String, BTreeSet<Option<Creation>>>,
    /// What keys call them: each its own.
    labels: BTreeSet<String>,
}

impl GivenFiles {
    fn of<'a>(slices: impl Iterator<Item = &'a Slice>) -> Self {
        let mut given = Self::default();
        for slice in slices {
            given.note(slice);
        }
        given
    }

    /// The slice of a file that was not given to any source yet.
    fn admit(&mut self, file: SourceFile) -> Option<Slice> {
        let before = self.files.get(&file.name);
        if before.is_some_and(|all| all.contains(&Some(file.creation)) || all.contains(&None)) {
            return None;
        }
        let slice = Slice {
            label: self.label(&file.name),
            ..whole(&file)
        };
        self.note(&slice);
        Some(slice)
    }

    fn note(&mut self, slice: &Slice) {
        let creations = self.files.entry(slice.file.clone()).or_default();
        creations.insert(slice.creation);
        self.labels.insert(slice.label().to_owned());
    }

    /// `None`: the name itself, which no other file goes by.
    fn label(&self, name: &str) -> Option<String> {
        if !self.labels.contains(name) {
            return None;
        }
        let mut numbered = (2..).map(|n: u64| format!("{name}#{n}"));
        numbered.find(|label| !self.labels.contains(label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, creation: u64) -> SourceFile {
        SourceFile {
            name: name.into(),
            creation: Creation(creation),
        }
    }

    #[test]
    fn a_name_made_anew_is_another_file_with_a_label_of_its_own() {
        let first = whole(&file("a", 1));
        let mut given = GivenFiles::of([&first].into_iter());
        assert_eq!(given.admit(file("a", 1)), None, "it is known");
        let second = given.admit(file("a", 2)).unwrap();
        assert_eq!((second.label(), second.creation), ("a#2", Some(Creation(2))));
        assert_eq!(given.admit(file("a", 2)), None);
        assert_eq!(given.admit(file("a", 3)).unwrap().label(), "a#3");
        // A file that is really called so is told apart, too.
        assert_eq!(given.admit(file("a#2", 4)).unwrap().label(), "a#2#2");
        assert_eq!(given.admit(file("b", 5)).unwrap().label, None);
    }

    #[test]
    fn new_files_go_to_who_has_the_fewest_and_each_once() {
        let node = common::ids::NodeName::new("n1").unwrap();
        let mut intake = Intake::of(&crate::plan::sample::sample(1, 1, 2, &[node]));
        let files = || vec![file("a", 1), file("b", 2), file("c", 3)];
        let more = intake.assign(files());
        let counts: Vec<(u16, usize)> = more.iter().map(|(task, slices)| (*task, slices.len())).collect();
        assert_eq!(counts, [(0, 2), (1, 1)]);
        assert!(intake.assign(files()).is_empty());
        assert_eq!(
            intake.assign(vec![file("d", 4)]).into_keys().collect::<Vec<_>>(),
            [1]
        );
        assert!(!intake.is_draining() && intake.drain() && intake.is_draining() && !intake.drain());
    }

    #[test]
    fn a_file_of_a_journal_that_does_not_say_which_is_known_by_its_name() {
        let old = Slice {
            creation: None,
            ..whole(&file("a", 1))
        };
        let mut given = GivenFiles::of([&old].into_iter());
        assert_eq!(given.admit(file("a", 7)), None);
    }
}
