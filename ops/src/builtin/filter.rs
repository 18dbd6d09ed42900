//! `filter`: compares one column.

use std::cmp::Ordering;

use memchr::memmem::Finder;
use protocol::batch::Batch;

use crate::args::{self, Args, Opt, with_value};
use crate::columns::Layout;
use crate::keys::Keyer;
use crate::number::Number;
use crate::operator::{Emit, Error, InputKeys, Operator};
use crate::pattern::Matcher;

const TESTS: [&str; 5] = ["-eq", "-ne", "-lt", "-gt", "-contains"];

pub const OPTIONS: &[Opt] = &[
    with_value("-c"),
    with_value(TESTS[0]),
    with_value(TESTS[1]),
    with_value(TESTS[2]),
    with_value(TESTS[3]),
    with_value(TESTS[4]),
];

enum Test {
    Equal(bool),
    Order(Ordering, Option<Number>),
    Contains(Box<Finder<'static>>),
}

struct Filter {
    column: usize,
    test: Test,
    value: Vec<u8>,
    /// Values that this does not match cannot pass: found in one pass over the batch.
    first: Matcher,
    layout: Layout,
    keyer: Keyer,
    key: Vec<u8>,
    scratch: Vec<u8>,
}

pub fn build(args: &Args) -> Result<Box<dyn Operator>, args::Error> {
    let column = args.column()?;
    let given: Vec<_> = TESTS.iter().filter_map(|t| Some((*t, args.value(t)?))).collect();
    let [(test, value)] = given[..] else {
        let what = match given.is_empty() {
            true => "a test is missing: one of -eq, -ne, -lt, -gt, -contains and its VALUE".to_owned(),
            false => format!(
                "{} tests are given, it takes one; use a stage for each",
                given.len()
            ),
        };
        return Err(args.error(what));
    };
    let value = value.as_bytes().to_vec();
    let layout = Layout::of(args)?;
    let test = match test {
        "-eq" => Test::Equal(true),
        "-ne" => Test::Equal(false),
        "-lt" => Test::Order(Ordering::Less, Number::parse(&value)),
        "-gt" => Test::Order(Ordering::Greater, Number::parse(&value)),
        _ => Test::Contains(Box::new(Finder::new(&value).into_owned())),
    };
    // Under --csv a value's text may differ from the column's by its quotes.
    let first = match test {
        Test::Equal(true) | Test::Contains(_) if !layout.is_csv() => Matcher::literal(&value),
        _ => Matcher::Always,
    };
    let keyer = Keyer::of(args)?;
    Ok(Box::new(Filter {
        column,
        test,
        value,
        first,
        layout,
        keyer,
        key: vec![],
        scratch: vec![],
    }))
}

impl Operator for Filter {
    fn process(&mut self, batch: &Batch, out: &mut dyn Emit) -> Result<(), Error> {
        let Self {
            column,
            test,
            value,
            first,
            layout,
            keyer,
            key,
            scratch,
        } = self;
        first.each(batch, |i| {
            let line = batch.value(i);
            let text = layout.get(line, *column, scratch);
            let text = text.map_err(|e| Error::refused(e, batch, i))?.unwrap_or_default();
            let passes = match test {
                Test::Equal(wanted) => (text == value.as_slice()) == *wanted,
                Test::Contains(finder) => finder.find(text).is_some(),
                Test::Order(wanted, number) => {
                    let order = match (number.as_ref().and_then(|_| Number::parse(text)), number) {
                        (Some(a), Some(b)) => a.compare(b),
                        _ => text.cmp(value),
                    };
                    order == *wanted
                }
            };
            if passes {
                key.clear();
                if keyer.needs_key() {
                    batch.key_into(i, key);
                }
                return keyer
                    .emit(key, line, out)
                    .map_err(|e| Error::refused(e, batch, i));
            }
            Ok(())
        })
    }

    fn input_keys(&self) -> InputKeys {
        self.keyer.input_keys()
    }
}
