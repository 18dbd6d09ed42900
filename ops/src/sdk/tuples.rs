//! The tuples of a batch, as an operator sees them: slices of what was received.

use std::cell::Cell;

use bytes::Bytes;

use crate::foreign::batch::wire::Column;

/// One tuple; the key is empty in an operator that does without ([`super::Program::values_only`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    /// Any bytes: of a source's tuple `file:line`.
    pub key: &'a [u8],
    /// Any bytes: of a source's tuple the line, without its newline.
    pub value: &'a [u8],
}

/// A batch. Which tuple was looked at last is noted: it is the one whose key an output takes, and that an error is about.
#[derive(Debug)]
pub struct Tuples<'a> {
    /// Where the columns lie.
    message: &'a Bytes,
    keys: Option<Column<'a>>,
    values: Column<'a>,
    current: &'a Cell<usize>,
}

impl<'a> Tuples<'a> {
    pub(super) fn new(
        message: &'a Bytes,
        keys: Option<Column<'a>>,
        values: Column<'a>,
        current: &'a Cell<usize>,
    ) -> Self {
        current.set(0);
        Self {
            message,
            keys,
            values,
            current,
        }
    }

    /// The columns, keys and values, each with where its values end: shared, not copied.
    pub(super) fn columns(&self) -> (Option<(Bytes, Bytes)>, (Bytes, Bytes)) {
        let shared = |column: Column<'a>| {
            let slice = |bytes| self.message.slice_ref(bytes);
            (slice(column.ends()), slice(column.data()))
        };
        (self.keys.map(shared), shared(self.values))
    }

    /// How many tuples there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Tuple `i`, counted from 0.
    ///
    /// # Panics
    /// If there are not so many, as a slice does.
    #[inline]
    pub fn get(&self, i: usize) -> Tuple<'a> {
        self.current.set(i);
        Tuple {
            key: self.keys.map_or(b"", |keys| keys.get(i)),
            value: self.values.get(i),
        }
    }

    /// All of them, in order.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = Tuple<'a>> + use<'a> {
        let (keys, current) = (self.keys, self.current);
        self.values.iter().enumerate().map(move |(i, value)| {
            current.set(i);
            Tuple {
                key: keys.map_or(b"", |keys| keys.get(i)),
                value,
            }
        })
    }

    /// All values end to end: for one search over the whole batch. Value `i` ends at `value_end(i)`.
    pub fn values_joined(&self) -> &'a [u8] {
        self.values.data()
    }

    /// Where value `i` ends in [`Self::values_joined`].
    ///
    /// # Panics
    /// If there are not so many.
    pub fn value_end(&self, i: usize) -> usize {
        self.values.end(i)
    }
}
