//! A disk of limited size, for tests: writes of this thread take room until there is none.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};

thread_local! {
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// From now on so many bytes can be written; `None`: any number.
pub fn set(left: Option<usize>) {
    LEFT.set(left);
}

/// Takes room for a write of `len` bytes. Where there is too little a part of it, garbage, is written, as a disk may do.
pub fn take(mut file: &File, len: usize) -> io::Result<()> {
    match LEFT.get() {
        None => Ok(()),
        Some(left) if left >= len => {
            LEFT.set(Some(left - len));
            Ok(())
        }
        Some(left) => {
            file.write_all(&vec![0xEE; left])?;
            Err(io::ErrorKind::StorageFull.into())
        }
    }
}
