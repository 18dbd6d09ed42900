//! What the aggregates that come with RainStorm keep per key.

use std::cmp::Ordering;
use std::convert::Infallible;

use super::table::{State, take};
use crate::number::Number;

pub trait Accumulator: State<Unsaveable = Infallible> {
    fn add(&mut self, number: Number);
    /// Appends the running value as text.
    fn write(&self, out: &mut Vec<u8>);
}

fn save_number(number: Number, out: &mut Vec<u8>) {
    match number {
        Number::Int(n) => {
            out.push(0);
            out.extend_from_slice(&n.to_le_bytes());
        }
        Number::Float(f) => {
            out.push(1);
            out.extend_from_slice(&f.to_bits().to_le_bytes());
        }
    }
}

fn load_number(input: &mut &[u8]) -> Option<Number> {
    match take(input)? {
        [0] => Some(Number::Int(i64::from_le_bytes(take(input)?))),
        [1] => Some(Number::Float(f64::from_bits(u64::from_le_bytes(take(input)?)))),
        _ => None,
    }
}

#[derive(Default)]
pub struct Count(u64);

impl Accumulator for Count {
    fn add(&mut self, _: Number) {
        self.0 += 1;
    }
    fn write(&self, out: &mut Vec<u8>) {
        common::batch::decimal(self.0, out);
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

pub struct Sum(Number);

impl Default for Sum {
    fn default() -> Self {
        Self(Number::Int(0))
    }
}

impl Accumulator for Sum {
    fn add(&mut self, number: Number) {
        self.0 = self.0.plus(number);
    }
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }
}

impl State for Sum {
    const TAG: u8 = b's';
    type Unsaveable = Infallible;
    fn save(&self, out: &mut Vec<u8>) -> Result<(), Infallible> {
        save_number(self.0, out);
        Ok(())
    }
    fn load(input: &mut &[u8]) -> Option<Self> {
        Some(Self(load_number(input)?))
    }
}

#[derive(Default)]
pub struct Average {
    sum: Sum,
    count: Count,
}

impl Accumulator for Average {
    fn add(&mut self, number: Number) {
        self.sum.add(number);
        self.count.add(number);
    }
    fn write(&self, out: &mut Vec<u8>) {
        Number::Float(self.sum.0.as_f64() / self.count.0 as f64).write(out);
    }
}

impl State for Average {
    const TAG: u8 = b'a';
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
    if best.is_none_or(|b| number.compare(b) == wanted) {
        *best = Some(number);
    }
}

macro_rules! extreme {
    ($type:ident, $tag:literal, $wanted:expr) => {
        /// `None` only before the first number.
        #[derive(Default)]
        pub struct $type(Option<Number>);

        impl Accumulator for $type {
            fn add(&mut self, number: Number) {
                keep(&mut self.0, number, $wanted);
            }
            fn write(&self, out: &mut Vec<u8>) {
                self.0.iter().for_each(|n| n.write(out));
            }
        }

        impl State for $type {
            const TAG: u8 = $tag;
            type Unsaveable = Infallible;
            fn save(&self, out: &mut Vec<u8>) -> Result<(), Infallible> {
                save_number(self.0.unwrap_or(Number::Int(0)), out);
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
