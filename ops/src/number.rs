//! Numbers in text: exact integers where they fit, else floating point.

use std::cmp::Ordering;
use std::io::Write;

use common::batch::decimal;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    Int(i64),
    /// Never NaN. Infinite only as the result of adding.
    Float(f64),
}

impl Number {
    /// A decimal number, with white space around it or not; no hexadecimal, no `inf`, no `nan`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii();
        if let Some(n) = parse_int(text) {
            return Some(Number::Int(n));
        }
        let plausible = |b: &u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
        if text.is_empty() || !text.iter().all(plausible) {
            return None;
        }
        let f: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
        f.is_finite().then_some(Number::Float(f))
    }

    pub fn as_f64(self) -> f64 {
        match self {
            Number::Int(n) => n as f64,
            Number::Float(f) => f,
        }
    }

    /// By value, exactly: an integer is not rounded to compare it with a fraction.
    pub fn compare(self, other: Number) -> Ordering {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => a.cmp(&b),
            (Number::Float(a), Number::Float(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
            (Number::Int(a), Number::Float(b)) => int_float(a, b),
            (Number::Float(a), Number::Int(b)) => int_float(b, a).reverse(),
        }
    }

    /// Integers add up exactly as long as the sum fits.
    pub fn plus(self, other: Number) -> Number {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => match a.checked_add(b) {
                Some(sum) => Number::Int(sum),
                None => Number::Float(a as f64 + b as f64),
            },
            (a, b) => Number::Float(a.as_f64() + b.as_f64()),
        }
    }

    /// Appends the number; a float as the shortest text that reads back as the same.
    pub fn write(self, out: &mut Vec<u8>) {
        match self {
            Number::Int(n) => {
                if n < 0 {
                    out.push(b'-');
                }
                decimal(n.unsigned_abs(), out);
            }
            Number::Float(f) => {
                let size = f.abs();
                // Writing to a Vec cannot fail.
                let _ = match size == 0.0 || (1e-7..1e21).contains(&size) || !size.is_finite() {
                    true => write!(out, "{f}"),
                    false => write!(out, "{f:e}"),
                };
            }
        }
    }
}

fn parse_int(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() {
        return None;
    }
    let mut n = 0i64;
    for d in digits {
        let d = i64::from(d.checked_sub(b'0').filter(|d| *d < 10)?);
        // Built from below zero, since i64::MIN has no positive twin.
        n = n.checked_mul(10)?.checked_sub(d)?;
    }
    if negative { Some(n) } else { n.checked_neg() }
}

fn int_float(a: i64, b: f64) -> Ordering {
    // 2^63: as a float it is exact, and i64 ends just below.
    const TOP: f64 = 9_223_372_036_854_775_808.0;
    if b >= TOP {
        Ordering::Less
    } else if b < -TOP {
        Ordering::Greater
    } else {
        let whole = b.trunc();
        // Equal whole parts: the fraction decides, and its sign is b's.
        a.cmp(&(whole as i64))
            .then_with(|| 0.0f64.partial_cmp(&(b - whole)).unwrap_or(Ordering::Equal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(n: Number) -> String {
        let mut out = vec![];
        n.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_a_number() {
        for (text, want) in [
            ("0", "0"),
            ("-0", "0"),
            ("+7", "7"),
            (" 12\t", "12"),
            ("007", "7"),
            ("9223372036854775807", "9223372036854775807"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("9223372036854775808", "9223372036854776000"),
            ("1.50", "1.5"),
            (".5", "0.5"),
            ("2.0", "2"),
            ("1e3", "1000"),
            ("1e-9", "1e-9"),
            ("-2.5E30", "-2.5e30"),
        ] {
            assert_eq!(
                Number::parse(text.as_bytes()).map(shown).as_deref(),
                Some(want),
                "{text}"
            );
        }
        for bad in [
            "", " ", "-", "+", ".", "e", "1e", "inf", "-inf", "nan", "NaN", "infinity", "0x1", "1_000",
            "1,5", "--1", "1e999", "1 2", "\u{661}",
        ] {
            assert_eq!(Number::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_sum_that_overflows_goes_on_as_float() {
        let sum = Number::Int(i64::MAX).plus(Number::Int(1));
        assert_eq!(sum, Number::Float(9_223_372_036_854_775_808.0));
        assert_eq!(Number::Int(1).plus(Number::Float(0.5)), Number::Float(1.5));
    }

    #[test]
    fn integers_and_floats_compare_exactly() {
        let big = (1i64 << 53) + 1; // rounds to 2^53 as a float
        assert_eq!(
            Number::Int(big).compare(Number::Float((1i64 << 53) as f64)),
            Ordering::Greater
        );
        assert_eq!(Number::Int(-1).compare(Number::Float(-1.5)), Ordering::Greater);
        assert_eq!(Number::Float(-1.5).compare(Number::Int(-1)), Ordering::Less);
        assert_eq!(
            Number::Int(i64::MAX).compare(Number::Float(1e300)),
            Ordering::Less
        );
        assert_eq!(
            Number::Int(i64::MIN).compare(Number::Float(-9_223_372_036_854_775_808.0)),
            Ordering::Equal
        );
    }

    proptest! {
        #[test]
        fn integers_read_as_the_standard_library_reads_them(n: i64) {
            prop_assert_eq!(Number::parse(n.to_string().as_bytes()), Some(Number::Int(n)));
            prop_assert_eq!(shown(Number::Int(n)), n.to_string());
        }

        #[test]
        fn floats_come_back_exactly(f in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL | proptest::num::f64::ZERO) {
            let text = shown(Number::Float(f));
            prop_assert_eq!(Number::parse(text.as_bytes()).unwrap().as_f64(), f, "{}", text);
        }

        #[test]
        fn small_integers_compare_with_floats_as_floats_do(a in -1000i64..1000, b in -1000f64..1000.0) {
            prop_assert_eq!(Number::Int(a).compare(Number::Float(b)), (a as f64).partial_cmp(&b).unwrap());
        }

        #[test]
        fn no_bytes_panic(text: Vec<u8>) {
            let _ = Number::parse(&text);
        }
    }
}
