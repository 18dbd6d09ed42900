//! `project` and `filtertransform`.

use protocol::batch::Batch;

use crate::args::{self, Args};
use crate::builtin::grep::each_selected;
use crate::columns::{Layout, Malformed};
use crate::keys::Keyer;
use crate::operator::{Emit, Error, InputKeys, Operator};
use crate::pattern::Matcher;

/// Writes the wanted columns of a line.
struct Columns {
    wanted: Vec<usize>,
    /// The highest of them: nothing behind it is looked at.
    last: usize,
    layout: Layout,
    /// Where each column of the line at hand lies, up to `last`.
    spans: Vec<(usize, usize)>,
    plain: Vec<u8>,
    line: Vec<u8>,
}

impl Columns {
    fn of(args: &Args) -> Result<Self, args::Error> {
        let wanted = args.columns()?;
        let last = wanted.iter().copied().max().unwrap_or(0);
        Ok(Self {
            wanted,
            last,
            layout: Layout::of(args)?,
            spans: vec![],
            plain: vec![],
            line: vec![],
        })
    }

    fn project(&mut self, value: &[u8]) -> Result<&[u8], Malformed> {
        let Self {
            wanted,
            last,
            layout,
            spans,
            plain,
            line,
        } = self;
        spans.clear();
        let start = value.as_ptr() as usize;
        layout.each_raw(value, |raw| {
            let from = raw.as_ptr() as usize - start;
            spans.push((from, from + raw.len()));
            spans.len() <= *last
        })?;
        line.clear();
        for (i, column) in wanted.iter().enumerate() {
            if i > 0 {
                line.extend_from_slice(layout.separator());
            }
            if let Some((from, to)) = spans.get(*column) {
                let raw = &value[*from..*to];
                match layout.is_csv() {
                    false => line.extend_from_slice(raw),
                    true => layout.write(layout.plain(raw, plain), line),
                }
            }
        }
        Ok(line)
    }
}

struct Project {
    /// `filtertransform`: which values at all, and whether the others instead.
    filter: Option<(Matcher, bool)>,
    columns: Columns,
    keyer: Keyer,
    key: Vec<u8>,
}

pub fn build(args: &Args) -> Result<Box<dyn Operator>, args::Error> {
    let columns = Columns::of(args)?;
    Ok(Box::new(Project {
        filter: None,
        columns,
        keyer: Keyer::of(args)?,
        key: vec![],
    }))
}

pub fn build_filtered(args: &Args) -> Result<Box<dyn Operator>, args::Error> {
    let filter = Some((Matcher::of(args, 0)?, args.has("-v")));
    Ok(Box::new(Project {
        filter,
        columns: Columns::of(args)?,
        keyer: Keyer::of(args)?,
        key: vec![],
    }))
}

impl Operator for Project {
    fn process(&mut self, batch: &Batch, out: &mut dyn Emit) -> Result<(), Error> {
        let Self {
            filter,
            columns,
            keyer,
            key,
        } = self;
        let mut each = |i: usize| {
            key.clear();
            if keyer.needs_key() {
                batch.key_into(i, key);
            }
            let line = columns.project(batch.value(i));
            line.and_then(|line| keyer.emit(key, line, out))
                .map_err(|e| Error::refused(e, batch, i))
        };
        match filter {
            None => (0..batch.len()).try_for_each(each),
            Some((matcher, invert)) => each_selected(matcher, *invert, batch, &mut each),
        }
    }

    fn input_keys(&self) -> InputKeys {
        self.keyer.input_keys()
    }
}
