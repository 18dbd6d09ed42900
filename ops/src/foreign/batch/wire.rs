//! The batch protocol's messages, as `docs/operators.md` has them for other languages.
//!
//! ```text
//! frame   = length (u32, big-endian: of what follows)  message
//! message = MessagePack array, its first element the type
//! column  = [ends: bin, data: bin]       4-byte little-endian end offsets; value 0 begins at 0, the last ends with data
//!
//! to the program                               from the program
//! [0, keys: column | nil, values: column]      [0, more, origins: bin | nil, keys: column | nil, values: column]
//!                                              [1, passes: bin]                     one byte for each tuple
//! [1]                         finish           [0, ...]
//! [2, rewrite]                snapshot         [2, more, round_ended, bytes]
//! [3, more, bytes]            restore          [3]
//!                             to any of them   [4, index | nil, what: str]
//! ```
//! Lengths are bounded before anything is allocated for them; what is decoded borrows the frame.

use std::borrow::Cow;

use protocol::batch::ends_rise;
use rmp::decode::{read_array_len, read_bin_len, read_bool, read_int, read_str_len};
use rmp::encode;

/// A longer frame is refused.
pub const LONGEST_FRAME: usize = 64 << 20;
/// An origin that stands for a key in the column.
pub const OWN_KEY: u32 = u32::MAX;

const HEADER: usize = 4;

/// Bytes that are not what the protocol says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("its length would be {0} bytes, at most {max} are allowed", max = LONGEST_FRAME)]
    TooLong(u32),
    #[error("{0}")]
    Malformed(&'static str),
}

/// Byte strings laid end to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Column<'a> {
    ends: &'a [u8],
    data: &'a [u8],
}

impl<'a> Column<'a> {
    pub fn new(ends: &'a [u8], data: &'a [u8]) -> Result<Self, Error> {
        if !ends.len().is_multiple_of(4) {
            return Err(Error::Malformed("a column's ends are not 4 bytes each"));
        }
        if !ends_rise(ends, 0) {
            return Err(Error::Malformed("a column's ends go backwards"));
        }
        match ends.last_chunk().map_or(0, |last: &[u8; 4]| offset(last)) == data.len() {
            true => Ok(Self { ends, data }),
            false => Err(Error::Malformed(
                "a column's last value does not end with its data",
            )),
        }
    }

    /// A column of which the caller knows that [`Self::new`] would take it.
    pub(super) fn known(ends: &'a [u8], data: &'a [u8]) -> Self {
        debug_assert!(Self::new(ends, data).is_ok());
        Self { ends, data }
    }

    pub fn len(&self) -> usize {
        self.ends.len() / 4
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    #[inline]
    pub fn get(&self, i: usize) -> &'a [u8] {
        let from = match i {
            0 => 0,
            _ => self.end(i - 1),
        };
        &self.data[from..self.end(i)]
    }

    /// Where value `i` ends in [`Self::data`].
    #[inline]
    pub fn end(&self, i: usize) -> usize {
        offset(&self.ends[4 * i..4 * i + 4])
    }

    /// Where the values end: 4 bytes little-endian each.
    pub fn ends(&self) -> &'a [u8] {
        self.ends
    }

    /// All values end to end.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (data, mut from) = (self.data, 0);
        self.ends.chunks_exact(4).map(move |end| {
            let end = offset(end);
            let value = &data[from..end];
            from = end;
            value
        })
    }
}

#[inline]
fn offset(end: &[u8]) -> usize {
    u32::from_le_bytes([end[0], end[1], end[2], end[3]]) as usize
}

/// A column being filled.
#[derive(Debug, Default)]
pub struct Builder {
    ends: Vec<u8>,
    data: Vec<u8>,
}

impl Builder {
    #[inline]
    pub fn push(&mut self, value: &[u8]) {
        self.data.extend_from_slice(value);
        self.close();
    }

    /// The next value's bytes are appended here, then [`Self::close`] ends it.
    pub fn open(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }

    #[inline]
    pub fn close(&mut self) {
        self.ends
            .extend_from_slice(&(self.data.len() as u32).to_le_bytes());
    }

    pub fn len(&self) -> usize {
        self.ends.len() / 4
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.ends.len() + self.data.len()
    }

    pub fn clear(&mut self) {
        self.ends.clear();
        self.data.clear();
    }

    pub fn column(&self) -> Column<'_> {
        Column {
            ends: &self.ends,
            data: &self.data,
        }
    }
}

/// What RainStorm asks a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    Batch {
        /// `None`: the program does not want them.
        keys: Option<Column<'a>>,
        values: Column<'a>,
    },
    /// The input has ended.
    Finish,
    /// Save what changed, and this many bytes of what did not.
    Snapshot { rewrite: u64 },
    /// The next bytes of the snapshots to be taken in, cut anywhere; the last of them if not `more`.
    Restore { more: bool, bytes: &'a [u8] },
}

/// What a program answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<'a> {
    Outputs {
        /// The answer goes on in the next frame.
        more: bool,
        /// For each output 4 bytes little-endian: the tuple of the batch whose key it takes, or [`OWN_KEY`]: the next of
        /// `keys`. `None`: all have keys in `keys`, or, without those, the answer's output `i` takes that of tuple `i`.
        origins: Option<&'a [u8]>,
        keys: Option<Column<'a>>,
        values: Column<'a>,
    },
    /// For each tuple 1 (it is passed on as it came) or 0.
    Passed(&'a [u8]),
    Snapshot {
        more: bool,
        /// See [`crate::Operator::snapshot`]; the last frame's counts.
        round_ended: bool,
        bytes: &'a [u8],
    },
    Restored,
    Error {
        /// Which tuple of the batch.
        index: Option<u64>,
        what: Cow<'a, str>,
    },
}

/// The frame at the front of `input`: its message, and the length of both. `None`: it is not all there yet.
pub fn frame(input: &[u8]) -> Result<Option<(&[u8], usize)>, Error> {
    let Some(header) = input.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*header);
    if length as usize > LONGEST_FRAME {
        return Err(Error::TooLong(length));
    }
    let end = HEADER + length as usize;
    Ok(input.get(HEADER..end).map(|message| (message, end)))
}

/// Appends a frame with the message that `body` writes, but for so many bytes, which are to follow.
fn framed(out: &mut Vec<u8>, follow: usize, body: impl FnOnce(&mut Writer<'_>)) {
    let begin = out.len();
    out.extend_from_slice(&[0; HEADER]);
    body(&mut Writer(out));
    let length = (out.len() - begin - HEADER + follow) as u32;
    out[begin..begin + HEADER].copy_from_slice(&length.to_be_bytes());
}

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn array(&mut self, n: u32) -> &mut Self {
        written(encode::write_array_len(self.0, n));
        self
    }
    fn uint(&mut self, n: u64) -> &mut Self {
        written(encode::write_uint(self.0, n));
        self
    }
    fn bool(&mut self, yes: bool) -> &mut Self {
        written(encode::write_bool(self.0, yes));
        self
    }
    fn bin(&mut self, bytes: &[u8]) -> &mut Self {
        written(encode::write_bin(self.0, bytes));
        self
    }
    /// What stands before so many bytes.
    fn bin_head(&mut self, length: usize) -> &mut Self {
        written(encode::write_bin_len(self.0, length as u32));
        self
    }
    fn column(&mut self, column: &Column<'_>) -> &mut Self {
        self.array(2).bin(column.ends).bin(column.data)
    }
    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        match value {
            Some(value) => write(self, value),
            None => written(encode::write_nil(self.0)),
        }
        self
    }
}

fn written<T, E>(done: Result<T, E>) {
    debug_assert!(done.is_ok(), "a Vec takes all bytes");
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array(&mut self, n: u32) -> Result<(), Error> {
        match read_array_len(&mut self.0) {
            Ok(found) if found == n => Ok(()),
            _ => Err(Error::Malformed("an array of another length should be there")),
        }
    }
    fn uint(&mut self) -> Result<u64, Error> {
        read_int(&mut self.0).map_err(|_| Error::Malformed("an unsigned integer should be there"))
    }
    fn bool(&mut self) -> Result<bool, Error> {
        read_bool(&mut self.0).map_err(|_| Error::Malformed("true or false should be there"))
    }
    fn bytes(&mut self, length: u32) -> Result<&'a [u8], Error> {
        let (bytes, rest) = self
            .0
            .split_at_checked(length as usize)
            .ok_or(Error::Malformed("a byte string goes beyond the frame"))?;
        self.0 = rest;
        Ok(bytes)
    }
    fn bin(&mut self) -> Result<&'a [u8], Error> {
        let length = read_bin_len(&mut self.0);
        self.bytes(length.map_err(|_| Error::Malformed("a byte string (bin) should be there"))?)
    }
    fn text(&mut self) -> Result<Cow<'a, str>, Error> {
        let length = read_str_len(&mut self.0);
        let bytes = self.bytes(length.map_err(|_| Error::Malformed("a text (str) should be there"))?)?;
        Ok(String::from_utf8_lossy(bytes))
    }
    fn column(&mut self) -> Result<Column<'a>, Error> {
        self.array(2)?;
        Column::new(self.bin()?, self.bin()?)
    }
    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<Option<T>, Error> {
        const NIL: u8 = 0xc0;
        match self.0 {
            [NIL, rest @ ..] => {
                self.0 = rest;
                Ok(None)
            }
            _ => read(self).map(Some),
        }
    }
    /// The number of elements, and the first.
    fn kind(&mut self) -> Result<(u32, u64), Error> {
        let n = read_array_len(&mut self.0).map_err(|_| Error::Malformed("an array should be there"))?;
        Ok((n, self.uint()?))
    }
    fn end<T>(self, message: T) -> Result<T, Error> {
        match self.0 {
            [] => Ok(message),
            _ => Err(Error::Malformed("something follows the message in its frame")),
        }
    }
}

const UNKNOWN: Error = Error::Malformed("no message has this type and length");

impl<'a> Request<'a> {
    /// Appends the whole frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        let rest = self.write_head(out);
        out.extend_from_slice(rest);
    }

    /// Appends the frame but for its end, which is given back: what a batch's values hold need not be copied.
    pub fn write_head(&self, out: &mut Vec<u8>) -> &'a [u8] {
        let rest = match self {
            Self::Batch { values, .. } => values.data,
            Self::Finish | Self::Snapshot { .. } | Self::Restore { .. } => &[],
        };
        framed(out, rest.len(), |w| {
            match self {
                Self::Batch { keys, values } => w
                    .array(3)
                    .uint(0)
                    .option(keys.as_ref(), |w, keys| {
                        w.column(keys);
                    })
                    .array(2)
                    .bin(values.ends)
                    .bin_head(values.data.len()),
                Self::Finish => w.array(1).uint(1),
                Self::Snapshot { rewrite } => w.array(2).uint(2).uint(*rewrite),
                Self::Restore { more, bytes } => w.array(3).uint(3).bool(*more).bin(bytes),
            };
        });
        rest
    }

    pub fn read(message: &'a [u8]) -> Result<Self, Error> {
        let mut r = Reader(message);
        let request = match r.kind()? {
            (3, 0) => {
                let keys = r.option(Reader::column)?;
                let values = r.column()?;
                if keys.is_some_and(|k| k.len() != values.len()) {
                    return Err(Error::Malformed("there are not as many keys as values"));
                }
                Self::Batch { keys, values }
            }
            (1, 1) => Self::Finish,
            (2, 2) => Self::Snapshot { rewrite: r.uint()? },
            (3, 3) => Self::Restore {
                more: r.bool()?,
                bytes: r.bin()?,
            },
            _ => return Err(UNKNOWN),
        };
        r.end(request)
    }
}

impl<'a> Answer<'a> {
    pub fn write(&self, out: &mut Vec<u8>) {
        framed(out, 0, |w| {
            match self {
                Self::Outputs {
                    more,
                    origins,
                    keys,
                    values,
                } => w
                    .array(5)
                    .uint(0)
                    .bool(*more)
                    .option(*origins, |w, origins| {
                        w.bin(origins);
                    })
                    .option(keys.as_ref(), |w, keys| {
                        w.column(keys);
                    })
                    .column(values),
                Self::Passed(passes) => w.array(2).uint(1).bin(passes),
                Self::Snapshot {
                    more,
                    round_ended,
                    bytes,
                } => w.array(4).uint(2).bool(*more).bool(*round_ended).bin(bytes),
                Self::Restored => w.array(1).uint(3),
                Self::Error { index, what } => {
                    w.array(3).uint(4).option(*index, |w, index| {
                        w.uint(index);
                    });
                    written(encode::write_str(w.0, what));
                    w
                }
            };
        });
    }

    /// Every key that an output is to take is there, but whether an origin lies in the batch is not known here.
    pub fn read(message: &'a [u8]) -> Result<Self, Error> {
        let mut r = Reader(message);
        let answer = match r.kind()? {
            (5, 0) => {
                let more = r.bool()?;
                let origins = r.option(Reader::bin)?;
                let keys = r.option(Reader::column)?;
                let values = r.column()?;
                let wanted = match origins {
                    Some(origins) if origins.len() != 4 * values.len() => {
                        return Err(Error::Malformed("there are not as many origins as values"));
                    }
                    Some(origins) => origins
                        .chunks_exact(4)
                        .filter(|o| **o == OWN_KEY.to_le_bytes())
                        .count(),
                    None if keys.is_some() => values.len(),
                    None => 0,
                };
                if keys.map_or(0, |k| k.len()) != wanted {
                    return Err(Error::Malformed(
                        "there are not as many keys as outputs that take one",
                    ));
                }
                Self::Outputs {
                    more,
                    origins,
                    keys,
                    values,
                }
            }
            (2, 1) => Self::Passed(r.bin()?),
            (4, 2) => Self::Snapshot {
                more: r.bool()?,
                round_ended: r.bool()?,
                bytes: r.bin()?,
            },
            (1, 3) => Self::Restored,
            (3, 4) => Self::Error {
                index: r.option(Reader::uint)?,
                what: r.text()?,
            },
            _ => return Err(UNKNOWN),
        };
        r.end(answer)
    }
}

#[cfg(test)]
mod tests;
