//! Files that are no UTF-8 are read as the bytes that they are. Two encodings cut every line in the wrong place, and say at the
//! file's beginning that they are there.

/// The name of the encoding whose byte order mark `file` begins with, if that is UTF-16 or UTF-32 (Unicode 16.0, section 23.8).
pub fn wide(file: &[u8]) -> Option<&'static str> {
    match file {
        // Before UTF-16's, which it begins with.
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => Some("UTF-32"),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Some("UTF-16"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_byte_orders_are_known_and_utf_8_is_none_of_them() {
        assert_eq!(wide(b"\xff\xfef\0o\0"), Some("UTF-16"));
        assert_eq!(wide(b"\xfe\xff\0f"), Some("UTF-16"));
        assert_eq!(wide(b"\xff\xfe\0\0f\0\0\0"), Some("UTF-32"));
        assert_eq!(wide(b"\0\0\xfe\xff\0\0\0f"), Some("UTF-32"));
        for other in [&b""[..], b"\xff", b"\xef\xbb\xbfx", b"\0\0\xfe", b"text"] {
            assert_eq!(wide(other), None, "{other:?}");
        }
    }
}
