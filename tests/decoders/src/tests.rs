//! A moment of fuzzing without coverage: valid inputs, mutated. `tests/fuzz.sh` does it properly.

use std::panic::catch_unwind;
use std::time::Duration;

use common::clock;
use common::seeds::{self, Seeds};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// How long one target is tried at most, and how often.
const MOMENT: Duration = Duration::from_secs(2);
const INPUTS: u64 = 100_000;
const LONGEST: usize = 4096;

#[test]
fn decoders_refuse_what_they_cannot_read() {
    for target in TARGETS {
        let valid = (target.seeds)();
        assert!(!valid.is_empty(), "{} has no seeds", target.name);
        valid.iter().for_each(|input| tried(target, input, None));
        let began = clock::now();
        for seed in Seeds::from_env(0..if target.slow { INPUTS / 100 } else { INPUTS }).range {
            if clock::now().since(began) > MOMENT {
                break;
            }
            tried(target, &mutated(&valid, seed), Some(seed));
        }
    }
}

fn tried(target: &Target, input: &[u8], seed: Option<u64>) {
    let again = seed.map_or(String::new(), |s| seeds::again(s, "decoders", "decoders_refuse"));
    assert!(
        catch_unwind(|| (target.run)(input)).is_ok(),
        "{} fails at {} bytes: {input:02x?}\n{again}",
        target.name,
        input.len()
    );
}

/// One of the valid inputs with a few changes.
fn mutated(valid: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut bytes = valid[rng.random_range(0..valid.len())].clone();
    for _ in 0..rng.random_range(1..5) {
        change(&mut bytes, valid, &mut rng);
        bytes.truncate(LONGEST);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, valid: &[Vec<u8>], rng: &mut SmallRng) {
    /// Ends of ranges, and the first bytes of MessagePack's types.
    const ODD: [u8; 12] = [0, 1, 0x7f, 0x80, 0x90, 0xc0, 0xc4, 0xc6, 0xcf, 0xdd, 0xdf, 0xff];
    let at = rng.random_range(0..=bytes.len());
    match rng.random_range(0..7) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, ODD[rng.random_range(0..ODD.len())]),
        2 => drop(bytes.drain(at..bytes.len().min(at + rng.random_range(1..9)))),
        3 => {
            let other = &valid[rng.random_range(0..valid.len())];
            let from = rng.random_range(0..=other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        4 => {
            // A number of four or eight bytes becomes a large one.
            let width = [4, 8][rng.random_range(0..2)];
            let large = [u64::MAX, u64::MAX / 2, 1 << 31, 1 << 40][rng.random_range(0..4)].to_be_bytes();
            bytes
                .iter_mut()
                .skip(at)
                .zip(large.iter().skip(8 - width))
                .for_each(|(b, l)| *b = *l);
        }
        5 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = ODD[rng.random_range(0..ODD.len())];
            }
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.random_range(0..8);
            }
        }
    }
}
