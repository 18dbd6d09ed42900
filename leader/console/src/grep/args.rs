//! What of a `grep` command line is options and what is the pattern, as GNU grep reads it. Pure.

/// Short options that take a value: in the same word, or the next.
const SHORT_WITH_VALUE: &str = "efmABCdD";
/// Long options that take one; `--color` takes it only after `=`.
const LONG_WITH_VALUE: [&str; 13] = [
    "regexp",
    "file",
    "max-count",
    "after-context",
    "before-context",
    "context",
    "binary-files",
    "devices",
    "directories",
    "include",
    "exclude",
    "exclude-from",
    "exclude-dir",
];
const FILE_OF_PATTERNS: &str =
    "the file of patterns would be looked for on each machine; give the patterns with -e";

/// A search, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// For grep, before the files: options, then `-e` and the pattern.
    pub args: Vec<String>,
    /// `-c`: what comes back is a count per file.
    pub counts: bool,
    /// Lines of context come along, which are no matches.
    pub context: bool,
    /// `-h`: lines do not begin with the file's name.
    pub bare: bool,
    pub quiet: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("grep needs a pattern; for example: grep TASK_RESTART")]
    NoPattern,
    #[error(
        "`{0}` is one word too many: it searches the logs of all machines, not files; a pattern with spaces goes in quotes"
    )]
    Files(String),
    #[error("grep's option {option} needs a value")]
    NoValue { option: String },
    #[error("grep's option {option}: {why}")]
    Refused { option: String, why: &'static str },
}

/// Sorts the words out.
pub fn read(words: &[String]) -> Result<Search, Error> {
    let mut search = Search {
        args: vec![],
        counts: false,
        context: false,
        bare: false,
        quiet: false,
    };
    let (mut operands, mut given) = (vec![], false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            operands.extend(words.by_ref().cloned());
        } else if let Some(long) = word.strip_prefix("--") {
            let (name, value) = long
                .split_once('=')
                .map_or((long, None), |(name, value)| (name, Some(value)));
            search.args.push(word.clone());
            let name = full_name(name);
            if value.is_none() && LONG_WITH_VALUE.contains(&name) {
                let value = words
                    .next()
                    .ok_or_else(|| Error::NoValue { option: word.clone() })?;
                search.args.push(value.clone());
            }
            given |= name == "regexp";
            search.long(name, word)?;
        } else if word.len() > 1 && word.starts_with('-') {
            given |= search.short(word, &mut words)?;
        } else {
            operands.push(word.clone());
        }
    }
    let mut operands = operands.into_iter();
    if !given {
        let pattern = operands.next().ok_or(Error::NoPattern)?;
        search.args.extend(["-e".into(), pattern]);
    }
    match operands.next() {
        Some(more) => Err(Error::Files(more)),
        None => Ok(search),
    }
}

/// GNU's long options may be cut short: the one that is meant among those that matter here.
fn full_name(name: &str) -> &str {
    let known = LONG_WITH_VALUE.iter().copied();
    let known = known.chain([
        "count",
        "quiet",
        "silent",
        "no-filename",
        "recursive",
        "dereference-recursive",
    ]);
    if name.len() < 3 {
        return name;
    }
    let mut meant = known.filter(|k| k.starts_with(name));
    match (meant.next(), meant.next()) {
        (Some(only), None) => only,
        _ => name,
    }
}

impl Search {
    fn long(&mut self, name: &str, word: &str) -> Result<(), Error> {
        match name {
            "count" => self.counts = true,
            "quiet" | "silent" => self.quiet = true,
            "no-filename" => self.bare = true,
            "after-context" | "before-context" | "context" => self.context = true,
            "file" => return refused(word, FILE_OF_PATTERNS),
            "recursive" | "dereference-recursive" => {
                return refused(word, "it searches the log folder as it is");
            }
            _ => {}
        }
        Ok(())
    }

    /// A word of short options; true: with a pattern.
    fn short<'a>(&mut self, word: &str, more: &mut impl Iterator<Item = &'a String>) -> Result<bool, Error> {
        self.args.push(word.to_owned());
        let mut given = false;
        for (at, letter) in word.char_indices().skip(1) {
            match letter {
                'c' => self.counts = true,
                'q' => self.quiet = true,
                'h' => self.bare = true,
                'A' | 'B' | 'C' | '0'..='9' => self.context = true,
                'e' => given = true,
                'f' => return refused("-f", FILE_OF_PATTERNS).map(|()| false),
                'r' | 'R' => {
                    return refused(&format!("-{letter}"), "it searches the log folder as it is")
                        .map(|()| false);
                }
                _ => {}
            }
            if SHORT_WITH_VALUE.contains(letter) {
                if word.len() == at + letter.len_utf8() {
                    let value = more.next().ok_or_else(|| Error::NoValue {
                        option: format!("-{letter}"),
                    })?;
                    self.args.push(value.clone());
                }
                break;
            }
        }
        Ok(given)
    }
}

fn refused(option: &str, why: &'static str) -> Result<(), Error> {
    Err(Error::Refused {
        option: option.into(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(line: &[&str]) -> Result<Search, Error> {
        read(&line.iter().map(|w| w.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn the_pattern_is_found_as_grep_finds_it() {
        for (line, args) in [
            (&["x"][..], &["-e", "x"][..]),
            (&["-i", "x"], &["-i", "-e", "x"]),
            (&["x", "-i"], &["-i", "-e", "x"]),
            (&["-A", "3", "x y"], &["-A", "3", "-e", "x y"]),
            (&["-iA3", "x"], &["-iA3", "-e", "x"]),
            (&["-e", "a", "-e", "b"], &["-e", "a", "-e", "b"]),
            (&["-ie", "a"], &["-ie", "a"]),
            (&["-ea"], &["-ea"]),
            (&["--regexp=a"], &["--regexp=a"]),
            (&["--regexp", "a"], &["--regexp", "a"]),
            (&["--max-count", "5", "x"], &["--max-count", "5", "-e", "x"]),
            (&["--max-c", "5", "x"], &["--max-c", "5", "-e", "x"]),
            (&["--", "-x"], &["-e", "-x"]),
            (&["-"], &["-e", "-"]),
            (&[""], &["-e", ""]),
        ] {
            assert_eq!(search(line).unwrap().args, args, "{line:?}");
        }
        let all = search(&["-c", "-C1", "-hq", "x"]).unwrap();
        assert!(all.counts && all.context && all.bare && all.quiet);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert_eq!(search(&[]), Err(Error::NoPattern));
        assert_eq!(search(&["-i"]), Err(Error::NoPattern));
        assert_eq!(search(&["-e"]), Err(Error::NoValue { option: "-e".into() }));
        assert!(matches!(search(&["a", "b"]), Err(Error::Files(word)) if word == "b"));
        assert!(matches!(search(&["-e", "a", "b"]), Err(Error::Files(_))));
        for line in [
            &["-f", "x"][..],
            &["--file=x"],
            &["-r", "x"],
            &["--recursive", "x"],
        ] {
            assert!(matches!(search(line), Err(Error::Refused { .. })), "{line:?}");
        }
    }
}
