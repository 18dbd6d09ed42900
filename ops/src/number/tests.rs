//! Against the standard library's 128-bit integers, and against texts padded to one length.

use super::*;
use proptest::prelude::*;

fn shown(n: &Number) -> String {
    let mut out = vec![];
    n.write(&mut out);
    String::from_utf8(out).unwrap()
}

fn parsed(text: &str) -> Number {
    Number::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text} is no number"))
}

fn total(numbers: &[&str]) -> Result<String, Overflow> {
    let mut total = Total::default();
    numbers.iter().try_for_each(|n| total.add(&parsed(n)))?;
    let mut out = vec![];
    total.write(&mut out);
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn what_is_a_number() {
    let long = "123456789".repeat(100);
    for (text, want) in [
        ("0", "0"),
        ("-0", "0"),
        ("+7", "7"),
        (" 12\t", "12"),
        ("007", "7"),
        ("9223372036854775807", "9223372036854775807"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("9223372036854775808", "9223372036854775808"),
        ("-0009223372036854775809", "-9223372036854775809"),
        ("+18446744073709551615", "18446744073709551615"),
        (&long, &long),
        ("0000000000000000000000000000000000000000000000007", "7"),
        ("1.50", "1.5"),
        (".5", "0.5"),
        ("2.0", "2"),
        ("1e3", "1000"),
        ("1e-9", "1e-9"),
        ("-2.5E30", "-2.5e30"),
        ("9007199254740993.0", "9007199254740992"),
        ("18446744073709551615.0", "1.8446744073709552e19"),
    ] {
        assert_eq!(shown(&parsed(text)), want, "{text}");
    }
    for bad in [
        "",
        " ",
        "-",
        "+",
        ".",
        "e",
        "1e",
        "inf",
        "-inf",
        "nan",
        "NaN",
        "infinity",
        "0x1",
        "1_000",
        "1,5",
        "--1",
        "1e999",
        "1 2",
        "\u{661}",
        "99999999999999999999x",
        "99999999999999999999 9",
    ] {
        assert_eq!(Number::parse(bad.as_bytes()), None, "{bad}");
    }
}

#[test]
fn sums_are_exact_to_128_bits_and_then_refused() {
    let top = i128::MAX.to_string();
    let bottom = i128::MIN.to_string();
    assert_eq!(
        total(&["9223372036854775807", "1"]).unwrap(),
        "9223372036854775808"
    );
    assert_eq!(total(&[&top, "-1", "1"]).unwrap(), top);
    assert_eq!(total(&[&bottom]).unwrap(), bottom);
    assert_eq!(total(&[&top, "1"]), Err(Overflow::Whole));
    assert_eq!(total(&[&bottom, "-1"]), Err(Overflow::Whole));
    assert_eq!(
        total(&["170141183460469231731687303715884105728"]),
        Err(Overflow::Whole)
    );
    assert_eq!(total(&["1", "0.5"]).unwrap(), "1.5");
    assert_eq!(
        total(&["0.5", "18446744073709551615"]).unwrap(),
        "1.8446744073709552e19"
    );
    assert_eq!(total(&["1e308", "1e308"]), Err(Overflow::Float));
    assert_eq!(total(&["0.5", &"9".repeat(400)]), Err(Overflow::Float));
    // What was refused is not in it.
    let mut sum = Total::Whole(i128::MAX);
    assert!(sum.add(&Number::Int(1)).is_err());
    assert_eq!(sum, Total::Whole(i128::MAX));
}

#[test]
fn whole_numbers_and_fractions_compare_exactly() {
    use Ordering::*;
    for (a, b, want) in [
        ("9007199254740993", "9007199254740992.0", Greater),
        ("-1", "-1.5", Greater),
        ("9223372036854775807", "1e300", Less),
        ("-9223372036854775808", "-9223372036854775808.0", Equal),
        ("18446744073709551615", "18446744073709551616.0", Less),
        ("18446744073709551616", "18446744073709551616.0", Equal),
        ("18446744073709551617", "18446744073709551616.0", Greater),
        ("-18446744073709551617", "-18446744073709551616.0", Less),
        ("-18446744073709551617", "0.5", Less),
        ("18446744073709551617", "-0.0", Greater),
        ("100000000000000000000", "99999999999999999999", Greater),
        ("-100000000000000000000", "5", Less),
    ] {
        assert_eq!(parsed(a).compare(&parsed(b)), want, "{a} {b}");
        assert_eq!(parsed(b).compare(&parsed(a)), want.reverse(), "{b} {a}");
    }
    let longest = "9".repeat(400);
    assert_eq!(parsed(&longest).compare(&parsed("1.7e308")), Greater);
}

/// A whole number of up to 60 digits, without superfluous zeros.
fn whole_number() -> impl Strategy<Value = String> {
    ("-?", "[1-9][0-9]{0,59}").prop_map(|(sign, digits)| sign + &digits)
}

/// As texts of one length compare: negative ones the other way round.
fn naive(a: &str, b: &str) -> Ordering {
    let pad = |text: &str| format!("{:0>80}", text.trim_start_matches('-'));
    match (a.starts_with('-'), b.starts_with('-')) {
        (false, false) => pad(a).cmp(&pad(b)),
        (true, true) => pad(b).cmp(&pad(a)),
        (negative, _) => {
            if negative {
                Ordering::Less
            } else {
                Ordering::Greater
            }
        }
    }
}

proptest! {
    #[test]
    fn whole_numbers_of_any_size_are_kept_and_compared(a in whole_number(), b in whole_number()) {
        prop_assert_eq!(shown(&parsed(&a)), a.clone());
        prop_assert_eq!(parsed(&a).compare(&parsed(&b)), naive(&a, &b));
    }

    #[test]
    fn totals_are_what_128_bits_give(numbers: Vec<i128>) {
        let texts: Vec<String> = numbers.iter().map(i128::to_string).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let want = numbers.iter().try_fold(0i128, |sum, n| sum.checked_add(*n));
        prop_assert_eq!(total(&texts).ok(), want.map(|n| n.to_string()));
    }

    #[test]
    fn integers_read_as_the_standard_library_reads_them(n: i64) {
        prop_assert_eq!(Number::parse(n.to_string().as_bytes()), Some(Number::Int(n)));
        prop_assert_eq!(shown(&Number::Int(n)), n.to_string());
    }

    #[test]
    fn floats_come_back_exactly(f in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL | proptest::num::f64::ZERO) {
        let text = shown(&Number::Float(f));
        // One without a fraction comes back as the whole number that it is.
        prop_assert_eq!(parsed(&text).compare(&Number::Float(f)), Ordering::Equal, "{}", text);
    }

    #[test]
    fn small_integers_compare_with_floats_as_floats_do(a in -1000i64..1000, b in -1000f64..1000.0) {
        prop_assert_eq!(Number::Int(a).compare(&Number::Float(b)), (a as f64).partial_cmp(&b).unwrap());
    }

    #[test]
    fn no_bytes_panic(text: Vec<u8>) {
        let _ = Number::parse(&text);
    }
}
