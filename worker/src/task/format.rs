//! How the last stage writes a tuple into the destination.

use memchr::memchr;
use protocol::control::Format;

/// Appends one tuple as the destination has it, with its newline. False: it cannot be read back as it was, since it means the
/// same as other tuples do (a tab in a key, a newline in a value, bytes that are no UTF-8 in JSON).
pub fn write_tuple(format: Format, key: &[u8], value: &[u8], out: &mut Vec<u8>) -> bool {
    let faithful = match format {
        Format::Tsv => {
            out.extend_from_slice(key);
            out.push(b'\t');
            out.extend_from_slice(value);
            !holds(key, b'\t') & !holds(key, b'\n') & !holds(value, b'\n')
        }
        Format::Value => {
            out.extend_from_slice(value);
            !holds(value, b'\n')
        }
        Format::Copy => {
            escape(key, out);
            out.push(b'\t');
            escape(value, out);
            true
        }
        Format::Json => {
            out.extend_from_slice(b"{\"key\":");
            let key = json_string(key, out);
            out.extend_from_slice(b",\"value\":");
            let value = json_string(value, out);
            out.push(b'}');
            key && value
        }
    };
    out.push(b'\n');
    faithful
}

/// Whether the byte is among them. Keys and values are mostly short, where the call of a search that is made for long texts costs more
/// than this: eight bytes at a time (H. S. Warren: Hacker's Delight, 2012, section 6-1).
fn holds(bytes: &[u8], byte: u8) -> bool {
    const LOW: u64 = u64::MAX / 255;
    const HIGH: u64 = LOW << 7;
    // A zero byte of `differs` is one that is equal, and only where there is one a high bit is left.
    let hit = |word: &[u8; 8]| {
        let differs = u64::from_ne_bytes(*word) ^ (LOW * u64::from(byte));
        differs.wrapping_sub(LOW) & !differs & HIGH
    };
    match bytes.last_chunk() {
        None => bytes.contains(&byte),
        Some(last) if bytes.len() <= 128 => {
            let (words, _) = bytes.as_chunks();
            words.iter().fold(hit(last), |all, word| all | hit(word)) != 0
        }
        Some(_) => memchr(byte, bytes).is_some(),
    }
}

/// As PostgreSQL's `COPY ... (FORMAT text)` has it: <https://www.postgresql.org/docs/current/sql-copy.html>.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let escaped = |b: &u8| match b {
        b'\\' => Some(b'\\'),
        b'\t' => Some(b't'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        _ => None,
    };
    let mut rest = bytes;
    while let Some((at, letter)) = rest.iter().enumerate().find_map(|(i, b)| Some((i, escaped(b)?))) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[b'\\', letter]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

fn json_string(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    let text = String::from_utf8_lossy(bytes);
    // Writing a string into a Vec cannot fail.
    serde_json::to_writer(out, &text).expect("a string is valid JSON");
    matches!(text, std::borrow::Cow::Borrowed(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(format: Format, key: &[u8], value: &[u8]) -> (Vec<u8>, bool) {
        let mut out = vec![];
        let faithful = write_tuple(format, key, value, &mut out);
        (out, faithful)
    }

    /// Reads a field of `Format::Copy` back as PostgreSQL does.
    fn unescape(field: &[u8]) -> Vec<u8> {
        let (mut out, mut bytes) = (vec![], field.iter());
        while let Some(b) = bytes.next() {
            out.push(match b {
                b'\\' => match bytes.next() {
                    Some(b't') => b'\t',
                    Some(b'n') => b'\n',
                    Some(b'r') => b'\r',
                    Some(other) => *other,
                    None => panic!("a backslash at the end"),
                },
                other => *other,
            });
        }
        out
    }

    #[test]
    fn each_format_looks_as_documented() {
        assert_eq!(
            written(Format::Tsv, b"k", b"v\t\r"),
            (b"k\tv\t\r\n".to_vec(), true)
        );
        assert_eq!(written(Format::Value, b"k\n", b"v"), (b"v\n".to_vec(), true));
        assert_eq!(
            written(Format::Copy, b"a\tb\\", b"v\n\xff\r"),
            (b"a\\tb\\\\\tv\\n\xff\\r\n".to_vec(), true)
        );
        assert_eq!(
            written(Format::Json, b"k\"", b"v\t"),
            (b"{\"key\":\"k\\\"\",\"value\":\"v\\t\"}\n".to_vec(), true)
        );
    }

    #[test]
    fn what_cannot_be_read_back_is_told() {
        assert!(!written(Format::Tsv, b"a\tb", b"c").1);
        assert!(!written(Format::Tsv, b"a", b"b\nc").1 && !written(Format::Tsv, b"a\nb", b"c").1);
        assert!(!written(Format::Value, b"", b"b\nc").1);
        let lossy = written(Format::Json, b"k\xff", b"v");
        assert_eq!(lossy, ("{\"key\":\"k\u{fffd}\",\"value\":\"v\"}\n".into(), false));
    }

    #[test]
    fn a_byte_is_found_wherever_it_is() {
        for len in (0..40).chain([127, 128, 129, 300]) {
            for at in 0..len {
                // What differs from it by one bit, or by a borrow, is not it.
                for other in [0x08, 0x0b, 0x8a, 0x00, 0xff] {
                    let mut bytes = vec![other; len];
                    assert!(!holds(&bytes, b'\n'), "{len} {other}");
                    bytes[at] = b'\n';
                    assert!(holds(&bytes, b'\n'), "{len} {at} {other}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn copy_is_lossless_and_one_line(key: Vec<u8>, value: Vec<u8>) {
            let (line, faithful) = written(Format::Copy, &key, &value);
            prop_assert!(faithful);
            let line = line.strip_suffix(b"\n").unwrap();
            prop_assert!(!line.contains(&b'\n'));
            let fields: Vec<&[u8]> = line.split(|b| *b == b'\t').collect();
            prop_assert_eq!(fields.len(), 2);
            prop_assert_eq!((unescape(fields[0]), unescape(fields[1])), (key, value));
        }

        #[test]
        fn whatever_is_said_to_be_faithful_is_told_apart(a: (Vec<u8>, Vec<u8>), b: (Vec<u8>, Vec<u8>)) {
            prop_assume!(a != b);
            for format in [Format::Tsv, Format::Copy, Format::Json] {
                let (one, other) = (written(format, &a.0, &a.1), written(format, &b.0, &b.1));
                prop_assert!(!one.1 || !other.1 || one.0 != other.0);
            }
        }
    }
}
