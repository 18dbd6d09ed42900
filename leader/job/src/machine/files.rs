//! Which files a job that follows has given to its sources. A name that is removed and made anew is another file: it is
//! read from its first byte, and its lines' keys name it apart. Pure.

use std::collections::{BTreeMap, BTreeSet};

use common::ids::Creation;
use protocol::control::Slice;

use crate::plan::{SourceFile, whole};

/// Grows with the number of files that the job has ever read, as its plan does.
#[derive(Debug, Default)]
pub struct GivenFiles {
    /// By name: all the files that had it. `None`: of a journal that does not say which.
    files: BTreeMap<String, BTreeSet<Option<Creation>>>,
    /// What keys call them: each its own.
    labels: BTreeSet<String>,
}

impl GivenFiles {
    pub fn of<'a>(slices: impl Iterator<Item = &'a Slice>) -> Self {
        let mut given = Self::default();
        for slice in slices {
            given.note(slice);
        }
        given
    }

    /// The slice of a file that was not given to any source yet.
    pub fn admit(&mut self, file: SourceFile) -> Option<Slice> {
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
    fn a_file_of_a_journal_that_does_not_say_which_is_known_by_its_name() {
        let old = Slice {
            creation: None,
            ..whole(&file("a", 1))
        };
        let mut given = GivenFiles::of([&old].into_iter());
        assert_eq!(given.admit(file("a", 7)), None);
    }
}
