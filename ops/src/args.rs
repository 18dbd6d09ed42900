//! The operators' command lines: one parser for all, with errors that teach.
//!
//! An option is a flag (`-F`), or a flag and its value: the next argument, whatever it looks like (`-lt -5`), or the
//! same one behind `=` for long flags (`--key=word:0`). One-letter flags may be joined as `grep -iv` and carry a value
//! that begins with no letter as `cut -d, -c1`. `--` ends the options.

use crate::builtin::Spec;

/// A command line that an operator cannot run with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {what}\nusage:   {usage}\nexample: {example}")]
pub struct Error {
    pub op: String,
    pub what: String,
    pub usage: String,
    /// A command line that works.
    pub example: String,
}

/// An option that an operator knows.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    pub flag: &'static str,
    pub takes_value: bool,
}

pub const fn flag(flag: &'static str) -> Opt {
    Opt {
        flag,
        takes_value: false,
    }
}
pub const fn with_value(flag: &'static str) -> Opt {
    Opt {
        flag,
        takes_value: true,
    }
}

/// Options of every operator.
const COMMON: &[Opt] = &[with_value("--key"), with_value("-d"), flag("--csv")];

/// A command line taken apart.
#[derive(Debug)]
pub struct Args {
    spec: &'static Spec,
    options: Vec<(&'static str, String)>,
    positionals: Vec<String>,
}

impl Args {
    pub fn parse(spec: &'static Spec, args: &[String]) -> Result<Self, Error> {
        let mut parsed = Self {
            spec,
            options: vec![],
            positionals: vec![],
        };
        let mut rest = args.iter();
        let mut options_ended = false;
        while let Some(arg) = rest.next() {
            if options_ended || !arg.starts_with('-') || arg == "-" {
                parsed.positionals.push(arg.clone());
            } else if arg == "--" {
                options_ended = true;
            } else {
                parsed.option(arg, &mut rest)?;
            }
        }
        if let Some(extra) = parsed.positionals.get(spec.positionals.len()) {
            let why = match spec.positionals {
                [] => "it takes none but its options".to_owned(),
                names => format!(
                    "it takes {}; one that holds spaces needs quotes",
                    names.join(" and ")
                ),
            };
            return Err(parsed.error(format!("the argument `{extra}` is one too many: {why}")));
        }
        if let Some(missing) = spec.positionals.get(parsed.positionals.len()) {
            return Err(parsed.error(format!("the argument {missing} is missing")));
        }
        Ok(parsed)
    }

    fn known(&self, flag: &str) -> Option<Opt> {
        COMMON
            .iter()
            .chain(self.spec.options)
            .find(|o| o.flag == flag)
            .copied()
    }

    fn option<'a>(&mut self, arg: &str, rest: &mut impl Iterator<Item = &'a String>) -> Result<(), Error> {
        if let Some(opt) = self.known(arg) {
            let value = match opt.takes_value {
                false => String::new(),
                true => match rest.next() {
                    Some(value) => value.clone(),
                    None => {
                        return Err(self.error(format!("`{arg}` is the last argument, but needs a value")));
                    }
                },
            };
            return self.add(opt, value);
        }
        if let Some((name, value)) = arg.split_once('=')
            && name.starts_with("--")
            && let Some(opt) = self.known(name)
        {
            if !opt.takes_value {
                return Err(self.error(format!("`{name}` takes no value, but was given `{value}`")));
            }
            return self.add(opt, value.to_owned());
        }
        self.joined(arg)
    }

    /// `-iv`, `-d,`, `-c1`.
    fn joined(&mut self, arg: &str) -> Result<(), Error> {
        let mut opts = vec![];
        for (at, letter) in arg.char_indices().skip(1) {
            let Some(opt) = self.known(&format!("-{letter}")) else {
                return Err(self.unknown(arg));
            };
            if opt.takes_value {
                let value = &arg[at + letter.len_utf8()..];
                if value.is_empty() || value.starts_with(|c: char| c.is_alphabetic()) {
                    return Err(self.unknown(arg));
                }
                opts.push((opt, value));
                break;
            }
            opts.push((opt, ""));
        }
        opts.into_iter()
            .try_for_each(|(opt, value)| self.add(opt, value.to_owned()))
    }

    fn unknown(&self, arg: &str) -> Error {
        let known: Vec<_> = self.spec.options.iter().chain(COMMON).map(|o| o.flag).collect();
        let mut what = format!("`{arg}` is not an option; it knows {}", known.join(", "));
        if let [first, ..] = self.spec.positionals {
            what.push_str(&format!(" (a {first} that begins with `-` goes behind `--`)"));
        }
        self.error(what)
    }

    fn add(&mut self, opt: Opt, value: String) -> Result<(), Error> {
        if opt.takes_value && self.has(opt.flag) {
            return Err(self.error(format!("`{}` is given twice", opt.flag)));
        }
        self.options.push((opt.flag, value));
        Ok(())
    }

    pub fn error(&self, what: impl Into<String>) -> Error {
        Error {
            op: self.spec.name.to_owned(),
            what: what.into(),
            usage: self.spec.usage.to_owned(),
            example: self.spec.example.to_owned(),
        }
    }

    pub fn has(&self, flag: &str) -> bool {
        self.options.iter().any(|(f, _)| *f == flag)
    }

    pub fn value(&self, flag: &str) -> Option<&str> {
        self.options
            .iter()
            .find(|(f, _)| *f == flag)
            .map(|(_, v)| v.as_str())
    }

    pub fn positional(&self, i: usize) -> &str {
        &self.positionals[i]
    }

    /// A column's or a word's number.
    pub fn number(&self, flag: &str, text: &str) -> Result<usize, Error> {
        let all_digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse::<u32>() {
            Ok(n) if all_digits => Ok(n as usize),
            _ => Err(self.error(format!("`{flag}` takes a number, counted from 0, not `{text}`"))),
        }
    }

    /// The one column that `-c` names.
    pub fn column(&self) -> Result<usize, Error> {
        match self.value("-c") {
            Some(text) => self.number("-c", text),
            None => Err(self.error("`-c COL` is missing: it says which column, counted from 0")),
        }
    }

    /// The list of columns that `-c` names: `0,1,5` or `0-2,5`, in the order given.
    pub fn columns(&self) -> Result<Vec<usize>, Error> {
        /// Enough for any table; keeps a slip such as `0-99999999` from eating the memory.
        const MOST: usize = 10_000;
        let list = self.value("-c");
        let list =
            list.ok_or_else(|| self.error("`-c COLS` is missing: it says which columns, from 0: `0-2,5`"))?;
        let mut columns = vec![];
        for part in list.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (self.number("-c", first)?, self.number("-c", last)?),
                None => (self.number("-c", part)?, self.number("-c", part)?),
            };
            if first > last {
                return Err(self.error(format!("`-c` has the range `{part}`, which runs backwards")));
            }
            if last - first >= MOST || columns.len() + last - first >= MOST {
                return Err(self.error(format!("`-c {list}` names more than {MOST} columns")));
            }
            columns.extend(first..=last);
        }
        Ok(columns)
    }
}
