//! Long messages between storage nodes go as several frames: what a take-over says grows with the number of files, and a frame must not.
//!
//! A fragment is `0xFFFF_FFFF | length of the whole message (u64) | where this piece begins (u64) | bytes`, big-endian. No other frame begins like
//! this: a header is never that long.

use bytes::{BufMut, Bytes, BytesMut};

use super::peer::{Error, Parts};

const MARK: u32 = u32::MAX;
const HEAD: usize = 20;
/// Heads of messages longer than this are cut in pieces of this.
pub const PIECE: usize = 4 * 1024 * 1024;
/// No message is longer: some hundred million bytes are tens of thousands of files with a hundred segments each.
pub const MOST: usize = 1024 * 1024 * 1024;

/// The message as frames.
pub fn frames(message: Parts) -> Result<Vec<Parts>, Error> {
    let total = message.head.len();
    if total <= PIECE {
        return Ok(vec![message]);
    }
    if total > MOST {
        return Err(Error::TooLong {
            len: total,
            most: MOST,
        });
    }
    // Only messages without payloads grow like this; with payloads, these would have to follow the last piece.
    if !message.payloads.is_empty() {
        return Err(Error::Malformed("a header before payloads is too long"));
    }
    let piece = |at: usize| {
        let mut head = BytesMut::with_capacity(HEAD);
        head.put_u32(MARK);
        head.put_u64(total as u64);
        head.put_u64(at as u64);
        Parts {
            head: head.freeze(),
            payloads: vec![message.head.slice(at..total.min(at + PIECE))],
        }
    };
    Ok((0..total).step_by(PIECE).map(piece).collect())
}

/// Puts the pieces of one connection together again.
#[derive(Debug, Default)]
pub struct Assembler {
    have: Vec<u8>,
    total: usize,
}

impl Assembler {
    /// The next frame; a whole message when there is one. Memory grows with what came, not with what was announced.
    pub fn take(&mut self, frame: Bytes) -> Result<Option<Bytes>, Error> {
        if frame.first_chunk::<4>() != Some(&MARK.to_be_bytes()) {
            return if self.total == 0 {
                Ok(Some(frame))
            } else {
                Err(Error::Malformed("it comes between the pieces of another"))
            };
        }
        let word = |at: usize| {
            let bytes = frame.get(at..at + 8).and_then(<[u8]>::first_chunk::<8>);
            bytes.map(|b| u64::from_be_bytes(*b))
        };
        let (Some(total), Some(at)) = (word(4), word(12)) else {
            return Err(Error::Malformed("a piece is too short"));
        };
        let piece = frame.slice(HEAD..);
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        if total > MOST {
            return Err(Error::TooLong {
                len: total,
                most: MOST,
            });
        }
        let fits = at == self.have.len() as u64
            && (self.total == 0 || self.total == total)
            && !piece.is_empty()
            && piece.len() <= total - self.have.len().min(total);
        if !fits {
            return Err(Error::Malformed("a piece does not fit to those before"));
        }
        self.total = total;
        self.have.extend_from_slice(&piece);
        if self.have.len() < total {
            return Ok(None);
        }
        self.total = 0;
        Ok(Some(std::mem::take(&mut self.have).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(len: usize) -> Parts {
        let head: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
        Parts {
            head: head.into(),
            payloads: vec![],
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn long_messages_come_whole_and_no_frame_is_long(len in 1usize..3 * PIECE, drop in 0usize..3) {
            let frames = frames(parts(len)).unwrap();
            prop_assert!(frames.iter().all(|f| f.join().len() <= PIECE + HEAD));
            let mut assembler = Assembler::default();
            let mut whole = frames.iter().filter_map(|f| assembler.take(f.join()).unwrap());
            prop_assert_eq!(whole.next().unwrap(), parts(len).head);
            prop_assert!(whole.next().is_none());
            // One missing: refused, or not whole.
            if frames.len() > drop + 1 {
                let mut assembler = Assembler::default();
                let mut rest = frames.iter().enumerate().filter(|(i, _)| *i != drop).map(|(_, f)| assembler.take(f.join()));
                prop_assert!(rest.any(|r| r.is_err()));
            }
        }

        #[test]
        fn garbage_is_refused(bytes: Vec<u8>) {
            let mut frame = MARK.to_be_bytes().to_vec();
            frame.extend(bytes);
            let _ = Assembler::default().take(frame.into());
        }
    }

    #[test]
    fn a_length_that_is_announced_takes_no_memory() {
        let mut frame = MARK.to_be_bytes().to_vec();
        frame.extend((MOST as u64).to_be_bytes());
        frame.extend(0u64.to_be_bytes());
        frame.push(1);
        let mut assembler = Assembler::default();
        assert!(assembler.take(frame.clone().into()).unwrap().is_none());
        assert!(assembler.have.capacity() < 1024);
        frame[4..12].copy_from_slice(&(MOST as u64 + 1).to_be_bytes());
        assert!(matches!(
            Assembler::default().take(frame.into()),
            Err(Error::TooLong { .. })
        ));
        // Another message between the pieces.
        assert!(assembler.take(Bytes::from_static(b"\0\0\0\0")).is_err());
    }
}
