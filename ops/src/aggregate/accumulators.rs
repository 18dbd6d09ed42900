//! What the aggregates that come with RainStorm keep per key.

use std::cmp::Ordering;
use std::convert::Infallible;

use super::table::{State, take};
use crate::number::{Number, Overflow, Total};

pub trait Accumulator: State<Unsaveable = Infallible> {
    /// After an error nothing has changed.
    fn add(&mut self, number: Number) -> Result<(), Overflow>;
    /// Appends the running value as text.
    fn write(&self, out: &mut Vec<u8>);
}

/// How a number begins in a snapshot. What version 1 had are `INT` and `FLOAT`.
mod form {
    pub const INT: u8 = 0;
    pub const FLOAT: u8 = 1;
    /// A sum beyond 64 bits.
    pub const WIDE: u8 = 2;
    /// A whole number beyond 64 bits, as text.
    pub const LONG: u8 = 3;
}

fn save_int(n: i64, out: &mut Vec<u8>) {
    out.push(form::INT);
    out.extend_from_slice(&n.to_le_bytes());
}

fn save_float(f: f64, out: &mut Vec<u8>) {
    out.push(form::FLOAT);
    out.extend_from_slice(&f.to_bits().to_le_bytes());
}

fn load_int(input: &mut &[u8]) -> Option<i64> {
    Some(i64::from_le_bytes(take(input)?))
}

fn load_float(input: &mut &[u8]) -> Option<f64> {
    Some(f64::from_bits(u64::from_le_bytes(take(input)?)))
}

fn save_number(number: &Number, out: &mut Vec<u8>) {
    match number {
        Number::Int(n) => save_int(*n, out),
        Number::Float(f) => save_float(*f, out),
        Number::Long(_) => {
            out.push(form::LONG);
            let begin = out.len();
            out.extend_from_slice(&[0; 4]);
            number.write(out);
            let length = (out.len() - begin - 4) as u32;
            out[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
        }
    }
}

fn load_number(input: &mut &[u8]) -> Option<Number> {
    match take(input)? {
        [form::INT] => load_int(input).map(Number::Int),
        [form::FLOAT] => load_float(input).map(Number::Float),
        [form::LONG] => {
            let length = u32::from_le_bytes(take(input)?) as usize;
            let (text, rest) = input.split_at_checked(length)?;
            *input = rest;
            Number::parse_long(text)
        }
        _ => None,
    }
}

#[derive(Default)]
pub struct Count(u64);

impl Accumulator for Count {
    fn add(&mut self, _: Number) -> Result<(), Overflow> {
        self.0 += 1;
        Ok(())
    }
    fn write(&self, out: &mut Vec<u8>) {
        protocol::batch::decimal(self.0, out);
    }
}

impl State for Count {
    const TAG: u8 = b'c';
    type Unsaveable = Infallible;
    fn save(&self, out: &mut Vec<u8>) -> Result<(), Infallible> {
        out.extend_from_slice(&self.0.to_le_bytes());
        Ok(())
    }
    fn load(input: &mut &[u8]) -> Option<Self> {
        Some(Self(u64::from_le_bytes(take(input)?)))
    }
}

#[derive(Default)]
pub struct Sum(Total);

impl Accumulator for Sum {
    fn add(&mut self, number: Number) -> Result<(), Overflow> {
        self.0.add(&number)
    }
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }
}

impl State for Sum {
    const TAG: u8 = b's';
    const VERSION: u8 = 2;
    type Unsaveable = Infallible;
    fn save(&self, out: &mut Vec<u8>) -> Result<(), Infallible> {
        match self.0 {
            Total::Float(f) => save_float(f, out),
            Total::Whole(n) => match i64::try_from(n) {
                Ok(n) => save_int(n, out),
                Err(_) => {
                    out.push(form::WIDE);
                    out.extend_from_slice(&n.to_le_bytes());
                }
            },
        }
        Ok(())
    }
    fn load(input: &mut &[u8]) -> Option<Self> {
        let total = match take(input)? {
            [form::INT] => Total::Whole(load_int(input)?.into()),
            [form::FLOAT] => Total::Float(load_float(input)?),
            [form::WIDE] => Total::Whole(i128::from_le_bytes(take(input)?)),
            _ => return None,
        };
        Some(Self(total))
    }
}

#[derive(Default)]
pub struct Average {
    sum: Sum,
    count: Count,
}

impl Accumulator for Average {
    fn add(&mut self, number: Number) -> Result<(), Overflow> {
        self.sum.0.add(&number)?;
        self.count.0 += 1;
        Ok(())
    }
    fn write(&self, out: &mut Vec<u8>) {
        self.sum.0.write_mean(self.count.0, out);
    }
}

impl State for Average {
    const TAG: u8 = b'a';
    const VERSION: u8 = 2;
    type Unsaveable = Infallible;
    fn save(&self, out: &mut Vec<u8>) -> Result<(), Infallible> {
        self.sum.save(out)?;
        self.count.save(out)
    }
    fn load(input: &mut &[u8]) -> Option<Self> {
        Some(Self {
            sum: Sum::load(input)?,
            count: Count::load(input)?,
        })
    }
}

/// The smallest or the largest so far; of equal ones the first.
fn keep(best: &mut Option<Number>, number: Number, wanted: Ordering) {
    if best.as_ref().is_none_or(|b| number.compare(b) == wanted) {
        *best = Some(number);
    }
}

macro_rules! extreme {
    ($type:ident, $tag:literal, $wanted:expr) => {
        /// `None` only before the first number.
        #[derive(Default)]
        pub struct $type(Option<Number>);

        impl Accumulator for $type {
            fn add(&mut self, number: Number) -> Result<(), Overflow> {
                keep(&mut self.0, number, $wanted);
                Ok(())
            }
            fn write(&self, out: &mut Vec<u8>) {
                self.0.iter().for_each(|n| n.write(out));
            }
        }

        impl State for $type {
            const TAG: u8 = $tag;
            const VERSION: u8 = 2;
            type Unsaveable = Infallible;
            fn save(&self, out: &mut Vec<u8>) -> Result<(), Infallible> {
                save_number(self.0.as_ref().unwrap_or(&Number::Int(0)), out);
                Ok(())
            }
            fn load(input: &mut &[u8]) -> Option<Self> {
                Some(Self(Some(load_number(input)?)))
            }
        }
    };
}

extreme!(Minimum, b'<', Ordering::Less);
extreme!(Maximum, b'>', Ordering::Greater);
