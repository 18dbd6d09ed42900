//! Which segment of a file.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::view::View;

/// How many bits the size of a view takes: 65,536 nodes with two numbers of 64 bits each come to less.
const VIEW_BITS: u32 = 96;

/// The view that a segment was opened under, by its size, and which part of the file's bytes in that view it is. Unique within a file, rising:
/// first by the view, then by the part. A segment of the first part is just the view's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct SegmentId(pub u128);

impl SegmentId {
    /// The first that may be opened under this view.
    pub fn of(view: &View) -> Self {
        Self(view.size())
    }

    fn view(self) -> u128 {
        self.0 & ((1 << VIEW_BITS) - 1)
    }

    pub fn part(self) -> u32 {
        (self.0 >> VIEW_BITS) as u32
    }

    /// Another part under the same view.
    pub fn with_part(self, part: u32) -> Self {
        Self(self.view() | u128::from(part) << VIEW_BITS)
    }

    /// Were both opened under the same view?
    pub fn is_of_view(self, other: Self) -> bool {
        self.view() == other.view()
    }
}

impl Ord for SegmentId {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.view(), self.part()).cmp(&(other.view(), other.part()))
    }
}

impl PartialOrd for SegmentId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<(u64, u64)> for SegmentId {
    fn from((high, low): (u64, u64)) -> Self {
        Self((high as u128) << 64 | low as u128)
    }
}

impl From<SegmentId> for (u64, u64) {
    fn from(id: SegmentId) -> (u64, u64) {
        ((id.0 >> 64) as u64, id.0 as u64)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part() {
            0 => write!(f, "{:x}", self.view()),
            part => write!(f, "{:x}.{part}", self.view()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_and_views_follow_all_parts_of_those_before() {
        let (old, new) = (SegmentId(5), SegmentId(6));
        let rising = [
            old,
            old.with_part(1),
            old.with_part(u32::MAX),
            new,
            new.with_part(1),
        ];
        assert!(rising.is_sorted() && rising.windows(2).all(|w| w[0] != w[1]));
        assert_eq!((old.with_part(7).with_part(0), old.with_part(7).part()), (old, 7));
        assert!(old.is_of_view(old.with_part(3)) && !old.is_of_view(new));
        assert_eq!(
            (old.to_string(), old.with_part(10).to_string()),
            ("5".into(), "5.10".into())
        );
        // As it was stored when a view had one segment.
        assert_eq!(<(u64, u64)>::from(old), (0, 5));
        assert_eq!(
            SegmentId::from(<(u64, u64)>::from(new.with_part(9))),
            new.with_part(9)
        );
    }
}
