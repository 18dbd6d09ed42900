//! Numbers in text: whole numbers of any size, exactly; fractions as IEEE 754 doubles.

use std::cmp::Ordering;
use std::io::Write;

use protocol::batch::decimal;

/// Fewer digits than these make an `i64`, whichever they are.
const DIGITS: usize = 19;

#[derive(Debug, Clone, PartialEq)]
pub enum Number {
    Int(i64),
    /// A whole number that is beyond `i64`.
    Long(Box<Long>),
    /// Finite.
    Float(f64),
}

/// A whole number as its decimal digits: as long as a line may be, it is read, compared and written in one pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Long {
    negative: bool,
    /// The first is not 0.
    digits: Box<[u8]>,
}

impl Number {
    /// A decimal number, with white space around it or not; no hexadecimal, no `inf`, no `nan`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii();
        if let Some(whole) = Self::parse_whole(text) {
            return Some(whole);
        }
        let plausible = |b: &u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
        if text.is_empty() || !text.iter().all(plausible) {
            return None;
        }
        let f: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
        f.is_finite().then_some(Number::Float(f))
    }

    fn parse_whole(text: &[u8]) -> Option<Self> {
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if digits.is_empty() {
            return None;
        }
        let digit = |d: &u8| d.checked_sub(b'0').filter(|d| *d < 10).map(i64::from);
        // Built from below zero, since i64::MIN has no positive twin.
        let mut n = Some(0i64);
        if digits.len() < DIGITS {
            let mut short = 0;
            for d in digits {
                short = short * 10 - digit(d)?;
            }
            n = Some(short);
        } else {
            for d in digits {
                let d = digit(d)?;
                n = n.and_then(|n| n.checked_mul(10)?.checked_sub(d));
            }
        }
        let n = if negative { n } else { n.and_then(i64::checked_neg) };
        Some(n.map_or_else(
            || Number::Long(Box::new(Long::new(negative, digits))),
            Number::Int,
        ))
    }

    /// What [`Self::write`] wrote of a whole number beyond `i64`.
    pub fn parse_long(text: &[u8]) -> Option<Self> {
        Self::parse_whole(text).filter(|n| matches!(n, Number::Long(_)))
    }

    /// By value, exactly: a whole number is not rounded to compare it with a fraction.
    pub fn compare(&self, other: &Number) -> Ordering {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => a.cmp(b),
            (Number::Float(a), Number::Float(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
            (Number::Int(a), Number::Float(b)) => int_float(*a, *b),
            (Number::Float(a), Number::Int(b)) => int_float(*b, *a).reverse(),
            (Number::Long(a), Number::Long(b)) => a.compare(b.negative, &b.digits),
            (Number::Long(a), Number::Float(b)) => a.compare_float(*b),
            (Number::Float(a), Number::Long(b)) => b.compare_float(*a).reverse(),
            // It is beyond all that an i64 can be.
            (Number::Long(a), Number::Int(_)) => a.sign(),
            (Number::Int(_), Number::Long(b)) => b.sign().reverse(),
        }
    }

    /// Appends the number; a fraction as the shortest text that reads back as the same.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Number::Int(n) => {
                if *n < 0 {
                    out.push(b'-');
                }
                decimal(n.unsigned_abs(), out);
            }
            Number::Long(long) => {
                if long.negative {
                    out.push(b'-');
                }
                out.extend_from_slice(&long.digits);
            }
            Number::Float(f) => write_float(*f, out),
        }
    }
}

fn write_float(f: f64, out: &mut Vec<u8>) {
    // From 1e16 on digits would be shown that the double does not have: it would look like an exact whole number.
    let size = f.abs();
    // Writing to a Vec cannot fail.
    let _ = match size == 0.0 || (1e-7..1e16).contains(&size) || !size.is_finite() {
        true => write!(out, "{f}"),
        false => write!(out, "{f:e}"),
    };
}

impl Long {
    fn new(negative: bool, digits: &[u8]) -> Self {
        let zeros = digits.iter().take_while(|d| **d == b'0').count();
        Self {
            negative,
            digits: digits[zeros..].into(),
        }
    }

    /// How it compares with everything nearer to zero.
    fn sign(&self) -> Ordering {
        match self.negative {
            true => Ordering::Less,
            false => Ordering::Greater,
        }
    }

    fn compare(&self, negative: bool, digits: &[u8]) -> Ordering {
        if negative != self.negative {
            return self.sign();
        }
        let size = (self.digits.len().cmp(&digits.len())).then_with(|| (*self.digits).cmp(digits));
        if negative { size.reverse() } else { size }
    }

    /// A double of this size has no fraction; its decimal digits, all of them, are exact.
    fn compare_float(&self, f: f64) -> Ordering {
        match f.is_finite() {
            true => self.compare(f.is_sign_negative(), format!("{:.0}", f.abs().trunc()).as_bytes()),
            false => 0.0f64.partial_cmp(&f).unwrap_or(Ordering::Equal),
        }
    }

    fn text(&self) -> String {
        let sign = if self.negative { "-" } else { "" };
        format!("{sign}{}", String::from_utf8_lossy(&self.digits))
    }
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

/// A sum that has no exact text any more. It is not rounded: who asked for it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Overflow {
    #[error(
        "with this number the sum would leave the range of 128 bits (about 1.7e38 to either side), within which whole \
         numbers are added exactly"
    )]
    Whole,
    #[error("with this number the sum would leave the range of a double (about 1.8e308 to either side)")]
    Float,
}

/// A sum: exact while all that it is made of is whole; from the first fraction on a double.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Total {
    Whole(i128),
    Float(f64),
}

impl Default for Total {
    fn default() -> Self {
        Total::Whole(0)
    }
}

impl Total {
    pub fn add(&mut self, number: &Number) -> Result<(), Overflow> {
        let sum = match (*self, number) {
            (Total::Whole(a), Number::Int(b)) => whole(a, Some(i128::from(*b)))?,
            (Total::Whole(a), Number::Long(b)) => whole(a, b.text().parse().ok())?,
            (a, Number::Int(b)) => Total::Float(a.as_f64() + *b as f64),
            // Text with many digits is never refused, but may be infinite.
            (a, Number::Long(b)) => Total::Float(a.as_f64() + b.text().parse().unwrap_or(f64::INFINITY)),
            (a, Number::Float(b)) => Total::Float(a.as_f64() + b),
        };
        match sum {
            Total::Float(f) if !f.is_finite() => Err(Overflow::Float),
            sum => {
                *self = sum;
                Ok(())
            }
        }
    }

    fn as_f64(self) -> f64 {
        match self {
            Total::Whole(n) => n as f64,
            Total::Float(f) => f,
        }
    }

    /// Appends the sum divided by how many: a whole number if it is one and the sum is, else a double.
    pub fn write_mean(self, count: u64, out: &mut Vec<u8>) {
        match (self, i128::from(count)) {
            (Total::Whole(sum), n) if n != 0 && sum % n == 0 => Total::Whole(sum / n).write(out),
            _ => write_float(self.as_f64() / count as f64, out),
        }
    }

    pub fn write(self, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        let _ = match self {
            Total::Whole(n) => match i64::try_from(n) {
                Ok(n) => return Number::Int(n).write(out),
                Err(_) => write!(out, "{n}"),
            },
            Total::Float(f) => return write_float(f, out),
        };
    }
}

fn whole(a: i128, b: Option<i128>) -> Result<Total, Overflow> {
    let sum = b.and_then(|b| a.checked_add(b)).ok_or(Overflow::Whole)?;
    Ok(Total::Whole(sum))
}

#[cfg(test)]
mod tests;
