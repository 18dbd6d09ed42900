//! The built-in operators against naive ones.

use proptest::prelude::*;
use protocol::batch::{Batch, Builder};

use super::*;
use crate::operator::Emit;

pub type Tuples = Vec<(String, String)>;

#[derive(Default)]
pub struct Collect(pub Vec<(Vec<u8>, Vec<u8>)>);

impl Emit for Collect {
    fn emit(&mut self, key: &[u8], value: &[u8]) {
        self.0.push((key.to_vec(), value.to_vec()));
    }
}

impl Collect {
    pub fn text(self) -> Tuples {
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        self.0.into_iter().map(|(k, v)| (text(k), text(v))).collect()
    }
}

pub fn op(line: &str) -> Box<dyn Operator> {
    let mut words = line.split(' ').map(|w| w.replace('\u{b7}', " "));
    let name = words.next().unwrap();
    builtin(&name, &words.collect::<Vec<_>>()).unwrap_or_else(|e| panic!("{e}"))
}

/// Keys `f:1`, `f:2`, ...
pub fn lines<S: AsRef<str>>(values: &[S]) -> Batch {
    let mut b = Builder::new();
    let file = bytes::Bytes::from_static(b"f");
    for (i, v) in values.iter().enumerate() {
        assert!(b.push_line(&file, i as u64 + 1, v.as_ref().as_bytes()));
    }
    b.take()
}

/// Runs an operator (`·` in its arguments is a space) over lines.
fn run<S: AsRef<str>>(line: &str, values: &[S]) -> Tuples {
    try_run(line, values).unwrap()
}

fn try_run<S: AsRef<str>>(line: &str, values: &[S]) -> Result<Tuples, crate::operator::Error> {
    let mut out = Collect::default();
    let mut op = op(line);
    op.process(&lines(values), &mut out)?;
    op.finish(&mut out)?;
    Ok(out.text())
}

fn tuples(want: &[(&str, &str)]) -> Tuples {
    want.iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

#[test]
fn keys_come_from_the_output() {
    let line = ["GET  /a,b 200", ""];
    for (key, first, second) in [
        ("same", "f:1", "f:2"),
        ("value", "GET  /a,b 200", ""),
        ("word:0", "GET", ""),
        ("word:1", "/a,b", ""),
        ("word:3", "", ""),
        ("field:1", "b 200", ""),
        ("field:2", "", ""),
        ("const:x", "x", "x"),
        ("const:", "", ""),
    ] {
        let want = tuples(&[(first, line[0]), (second, line[1])]);
        assert_eq!(run(&format!("identity --key {key}"), &line), want, "{key}");
        assert_eq!(run(&format!("grep --key={key} .*"), &line), want, "{key}");
    }
    assert_eq!(
        run("split --key value", &[" a\tb "]),
        tuples(&[("a", "a"), ("b", "b")])
    );
    assert_eq!(run("project -c 1 --key field:0", &["x,y"]), tuples(&[("y", "y")]));
    assert_eq!(
        run("identity --key field:1 --csv", &["a,\"b,\"\"c\""]),
        tuples(&[("b,\"c", "a,\"b,\"\"c\"")])
    );
    assert_eq!(run("identity --key field:1 -d\\t", &["a\tb"])[0].0, "b");
}

#[test]
fn filter_compares_columns() {
    let rows = ["a,10", "b,9", "c,x", "d", "e,-1.5", "f,10.0"];
    let keys = |args: &str| {
        run(&format!("filter {args} --key field:0"), &rows)
            .into_iter()
            .map(|t| t.0)
            .collect::<String>()
    };
    assert_eq!(keys("-c 1 -eq 10"), "a");
    assert_eq!(keys("-c 1 -ne 10"), "bcdef");
    assert_eq!(keys("-c 1 -gt 9"), "acf", "numbers as numbers, `x` byte by byte");
    assert_eq!(keys("-c1 -lt -1"), "de", "an empty column is before all");
    assert_eq!(keys("-c 1 -lt b"), "abdef");
    assert_eq!(keys("-c 1 -contains 0"), "af");
    assert_eq!(keys("-c 1 -eq x"), "c");
    assert_eq!(
        run("filter --csv -c 0 -eq a,b", &["\"a,b\",1", "a,b"]),
        tuples(&[("f:1", "\"a,b\",1")])
    );
    assert_eq!(
        run("filter -d || -c 1 -eq b", &["a||b", "a|b"]),
        tuples(&[("f:1", "a||b")])
    );
}

#[test]
fn project_and_filtertransform_keep_columns() {
    assert_eq!(
        run("project -c 0-1,3", &["a,b,c,d,e", "a", ""]),
        tuples(&[("f:1", "a,b,d"), ("f:2", "a,,"), ("f:3", ",,")])
    );
    assert_eq!(run("project -c 2,0,2", &["a,b,c"]), tuples(&[("f:1", "c,a,c")]));
    assert_eq!(
        run("project --csv -c 1,0", &["\"x\",\"a,\"\"b\"\"\",z"]),
        tuples(&[("f:1", "\"a,\"\"b\"\"\",x")])
    );
    assert_eq!(
        run("filtertransform -F Stop -c 1", &["Stop,a", "Go,b", "x,Stop"]),
        tuples(&[("f:1", "a"), ("f:3", "Stop")])
    );
    assert_eq!(
        run("filtertransform -v Stop -c 1", &["Stop,a", "Go,b"]),
        tuples(&[("f:2", "b")])
    );
}

#[test]
fn replace_with_groups_and_without() {
    assert_eq!(
        run("replace (\\w)(\\w) $2$1", &["abcd e"]),
        tuples(&[("f:1", "badc e")])
    );
    assert_eq!(
        run("replace -F $1. [$2]", &["a$1.b$1."]),
        tuples(&[("f:1", "a[$2]b[$2]")])
    );
    assert_eq!(run("replace a\\.b -", &["a.b axb"]), tuples(&[("f:1", "- axb")]));
    assert_eq!(run("replace -i AB $0$0", &["xaB"]), tuples(&[("f:1", "xaBaB")]));
    assert_eq!(run("replace -F -i A. x", &["a.A.ab"]), tuples(&[("f:1", "xxab")]));
    assert_eq!(run("replace -- -x -y", &["-x"]), tuples(&[("f:1", "-y")]));
}

#[test]
fn command_lines_that_cannot_work_are_explained() {
    for (line, says) in [
        ("nosuch", "there are identity, grep"),
        ("grep", "the argument PATTERN is missing"),
        ("grep a b", "`b` is one too many"),
        ("grep -x a", "`-x` is not an option"),
        ("grep (", "is not a regular expression"),
        ("grep a --key", "needs a value"),
        ("grep a --key word", "--key"),
        ("grep a --key word:x", "not `x`"),
        ("grep a --key field:+1", "not `+1`"),
        ("grep a --key same --key value", "given twice"),
        ("grep a --csv=1", "takes no value"),
        ("identity -d ", "needs a separator"),
        ("identity --csv -d \"", "cannot separate"),
        ("identity x", "takes none"),
        ("replace a", "the argument TEXT is missing"),
        ("replace (a) $2", "group `2`"),
        ("filter -c 1", "a test is missing"),
        ("filter -eq 1", "`-c COL` is missing"),
        ("filter -c 1 -eq 1 -ne 2", "2 tests"),
        ("filter -c x -eq 1", "not `x`"),
        ("filter -c 1 -contain x", "`-contain` is not an option"),
        ("project", "`-c COLS` is missing"),
        ("project -c 3-1", "backwards"),
        ("project -c 1,", "not ``"),
        ("project -c 0-99999999", "more than"),
        ("count --emit never", "update, batch or final"),
        ("count -c 1", "`-c` is not an option"),
        ("sum", "`-c COL` is missing"),
        ("sum -c 99999999999", "not `99999999999`"),
    ] {
        let mut words = line.split(' ').map(str::to_owned);
        let name = words.next().unwrap();
        let Err(e) = builtin(&name, &words.collect::<Vec<_>>()) else {
            panic!("{line} is not refused")
        };
        let text = e.to_string();
        assert!(text.contains(says), "{line}: {text}");
        assert!(text.contains("usage:") && text.contains("example:"), "{text}");
    }
}

#[test]
fn the_examples_work_and_the_kinds_are_told() {
    for spec in SPECS {
        // As a shell would take these apart.
        let words: Vec<String> = spec
            .example
            .split(' ')
            .map(|w| w.trim_matches('\'').to_owned())
            .collect();
        let words = if spec.name == "replace" {
            vec!["replace".into(), "(\\w+)@(\\w+)".into(), "$2 at $1".into()]
        } else {
            words
        };
        assert_eq!(words[0], spec.name);
        assert!(spec.usage.starts_with(spec.name));
        builtin(&words[0], &words[1..]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(kind_of(spec.name), Some(spec.kind));
    }
    assert_eq!(names().len(), SPECS.len());
    assert_eq!((kind_of("/bin/cat"), usage("nosuch")), (None, None));
}

#[test]
fn the_stateless_keep_nothing() {
    let mut grep = op("grep a");
    let mut out = vec![];
    assert!(grep.snapshot(10, &mut out));
    assert!(out.is_empty() && grep.restore(&[]).is_ok());
    assert!(!grep.restore(&[1]).unwrap_err().restart_helps);
}

/// Whether RFC 4180's grammar has the line as a record.
fn is_record(line: &str) -> bool {
    let field = r#"("([^"]|"")*"|[^",]*)"#;
    let record = regex::Regex::new(&format!("^{field}(,{field})*$")).unwrap();
    record.is_match(line)
}

#[test]
fn lines_that_are_no_records_are_refused_by_all_that_read_columns() {
    for (row, says) in [
        ("a,\"b", "the quote that begins column 1 is still open"),
        ("a,b,\"", "column 2 is still open"),
        ("a\",b", "column 0 holds a quote"),
        ("a,b\"c", "column 1 holds a quote"),
        ("\"a\"x,b", "column 0 has text behind its closing quote"),
        ("a,\"b\" ", "column 1 has text behind"),
    ] {
        for command in [
            "identity --csv --key field:0",
            "grep . --csv --key field:0",
            "grep -v zz --csv --key field:0",
            "replace x y --csv --key field:0",
            "replace -F x y --csv --key field:0",
            "replace [x] y --csv --key field:0",
            "filter --csv -c 0 -ne zz",
            "filter --csv -c 0 -eq zz",
            "project --csv -c 0",
            "filtertransform . --csv -c 0",
            "sum --csv -c 0",
        ] {
            let e = try_run(command, &["1,ok", row]).unwrap_err();
            assert!(e.what.contains(says), "{command}: {row}: {e}");
            assert_eq!(
                (e.index, e.key.as_deref()),
                (Some(1), Some("f:2")),
                "{command}: {row}"
            );
        }
        for command in [
            "identity --csv",
            "grep . --csv --key word:0",
            "identity --key field:0",
        ] {
            assert_eq!(
                run(command, &[row])[0].1,
                row,
                "{command} does not look at columns in quotes"
            );
        }
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_columns_words_and_keys() {
    let rows = ["\u{feff}7,b c", "7,b c"];
    for key in ["value", "word:0", "field:0", "field:0 --csv", "field:0 -d ,b"] {
        for command in ["identity", "grep b", "replace zz x"] {
            let got = run(&format!("{command} --key {key}"), &rows);
            assert_eq!(got[0].0, got[1].0, "{command} {key}");
            assert_eq!(got[0].1, rows[0], "{command} {key}: the value goes on as it is");
        }
    }
    let values = |command: &str| run(command, &rows).into_iter().map(|t| t.1).collect::<Vec<_>>();
    assert_eq!(values("split")[0], "7,b");
    assert_eq!(values("project -c 0"), ["7", "7"]);
    assert_eq!(values("project -c 0 --csv"), ["7", "7"]);
    assert_eq!(values("filter -c 0 -eq 7").len(), 2);
    assert_eq!(values("filter -c 0 -lt 8").len(), 2);
    assert_eq!(values("sum -c 0"), ["7", "7"]);
    assert_eq!(
        run("identity --csv --key field:0", &["\u{feff}\"a,b\",c"])[0].0,
        "a,b"
    );
    assert_eq!(values("identity"), rows);
    // In the middle it is data.
    assert_eq!(run("identity --key value", &["a\u{feff}b"])[0].0, "a\u{feff}b");
}

/// What csv-core, which is made for it, reads.
fn csv_core(line: &str) -> Vec<String> {
    let mut reader = csv_core::Reader::new();
    let (mut fields, mut field) = (vec![], vec![0; line.len() + 1]);
    let (mut rest, mut at) = (line.as_bytes(), 0);
    loop {
        // An empty rest tells it that the line ends.
        let (result, read, written) = reader.read_field(rest, &mut field[at..]);
        rest = &rest[read..];
        at += written;
        match result {
            csv_core::ReadFieldResult::InputEmpty => {}
            csv_core::ReadFieldResult::Field { record_end } => {
                fields.push(String::from_utf8(field[..at].to_vec()).unwrap());
                at = 0;
                if record_end {
                    return fields;
                }
            }
            csv_core::ReadFieldResult::End => return fields,
            csv_core::ReadFieldResult::OutputFull => panic!("a column is longer than its line"),
        }
    }
}

proptest! {
    #[test]
    fn plain_columns_are_what_split_gives(rows in proptest::collection::vec("[a;|]{0,8}", 0..10), sep in "[;|]{1,2}", a in 0usize..4, b in 0usize..4) {
        let want: Tuples = rows.iter().enumerate().map(|(i, row)| {
            let parts: Vec<&str> = row.split(&sep).collect();
            let at = |n: usize| parts.get(n).copied().unwrap_or_default();
            (format!("f:{}", i + 1), [at(a), at(b)].join(&sep))
        }).collect();
        prop_assert_eq!(run(&format!("project -d {sep} -c {a},{b}"), &rows), want);
        let want: Vec<String> = rows.iter().map(|row| row.split(&sep).nth(a).unwrap_or_default().to_owned()).collect();
        let got: Vec<String> = run(&format!("identity -d {sep} --key field:{a}"), &rows).into_iter().map(|t| t.0).collect();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn csv_columns_are_what_csv_core_reads_and_lines_that_are_no_records_are_refused(rows in proptest::collection::vec("[ab\",]{1,10}", 0..10), n in 0usize..4) {
        for row in &rows {
            let got = try_run(&format!("identity --csv --key field:{n}"), &[row]).map(|tuples| tuples[0].0.clone());
            let want = is_record(row).then(|| csv_core(row).get(n).cloned().unwrap_or_default());
            prop_assert_eq!(got.ok(), want, "{}", row);
        }
    }

    #[test]
    fn what_project_writes_as_csv_reads_back(rows in proptest::collection::vec("[ab\",]{1,10}", 1..10)) {
        for row in rows.iter().filter(|row| is_record(row)) {
            let out = run("project --csv -c 1,0", &[row]).remove(0).1;
            let want = csv_core(row);
            let at = |n: usize| want.get(n).cloned().unwrap_or_default();
            prop_assert_eq!(csv_core(&out), [at(1), at(0)], "{} -> {}", row, out);
        }
    }

    #[test]
    fn grep_passes_what_contains_says_and_v_the_rest(rows in proptest::collection::vec("[ab ]{0,6}", 0..30), needle in "[ab]{1,2}") {
        for (op, wanted) in [("grep", true), ("grep -F", true), ("grep -v", false), ("grep -Fv", false)] {
            let want: Tuples = (0..rows.len()).filter(|i| rows[*i].contains(&needle) == wanted)
                .map(|i| (format!("f:{}", i + 1), rows[i].clone())).collect();
            prop_assert_eq!(run(&format!("{op} {needle}"), &rows), want);
        }
    }

    #[test]
    fn replace_is_str_replace(rows in proptest::collection::vec("[ab]{0,8}", 0..20), from in "[ab]{1,3}", to in "[xa]{0,2}") {
        let want: Tuples = rows.iter().enumerate().map(|(i, r)| (format!("f:{}", i + 1), r.replace(&from, &to))).collect();
        prop_assert_eq!(run(&format!("replace -F {from} {to}"), &rows), want.clone());
        prop_assert_eq!(run(&format!("replace ({from}) {to}"), &rows), want);
    }

    #[test]
    fn split_is_split_ascii_whitespace(rows in proptest::collection::vec("[a\t \r]{0,8}", 0..20)) {
        let want: Vec<String> = rows.iter().flat_map(|r| r.split_ascii_whitespace().map(str::to_owned)).collect();
        let got: Vec<String> = run("split", &rows).into_iter().map(|t| t.1).collect();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn no_value_panics(values: Vec<Vec<u8>>) {
        let mut b = Builder::new();
        values.iter().for_each(|v| b.push(v, v));
        let batch = b.take();
        for line in [
            "identity --key field:1 --csv", "grep -i a.c --key word:1", "replace (.) $1$1", "replace -F a b", "filter -c 1 -lt 5 --csv",
            "filter -c 0 -contains x", "project --csv -c 0-3", "split --key value", "filtertransform [a-z] -c 1", "count", "sum -c 0 --csv",
            "avg -c 1", "min -c 0", "max -c 0",
        ] {
            let _ = op(line).process(&batch, &mut Collect::default());
        }
    }
}
