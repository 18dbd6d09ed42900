//! What the destination can say of tuples with any bytes. (faults.md: keys with tabs, values with newlines, no UTF-8)

use std::time::Duration;

use anyhow::{Result, ensure};
use system_tests::{Cluster, root};

const LIMIT: Duration = Duration::from_secs(60);

/// Turns line N into a tuple that some formats cannot say: three sorts of them look like others.
fn write_odd(cluster: &Cluster) -> Result<()> {
    let sdk = root().join("ops/python");
    cluster.write_operator(
        "odd",
        &format!(
            r#"#!/usr/bin/env python3
import sys
sys.path.insert(0, {:?})
import rainstorm

@rainstorm.transform
def odd(value):
    n = int(value)
    return [
        (b"a\tb%d" % n, b"c"), (b"a", b"b%d\tc" % n),
        (b"d", b"e%d\nd\tf" % n), (b"g\\%d" % n, b"\\t\r\n\\"),
        (b"h%d" % n, b"\xff"), (b"h%d" % n, b"\xfe"),
    ][n % 6]

rainstorm.run()
"#,
            sdk.display().to_string()
        ),
    )
}

/// What Python reads of a file in PostgreSQL's COPY text format, as lines that tell all bytes apart; and the same of the input.
const READ_COPY: &str = r#"
python3 - <<'END'
import re, sys
marks = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}
plain = lambda field: re.sub(rb"\\(.)", lambda m: marks.get(m[1], m[1]), field, flags=re.S)
for line in open("fetched", "rb").read().split(b"\n")[:-1]:
    key, value = line.split(b"\t")
    print(repr((plain(key), plain(value))))
END
"#;

const ORACLE: &str = r#"
python3 - <<'END'
for n in range(1, 3001):
    print(repr([
        (b"a\tb%d" % n, b"c"), (b"a", b"b%d\tc" % n),
        (b"d", b"e%d\nd\tf" % n), (b"g\\%d" % n, b"\\t\r\n\\"),
        (b"h%d" % n, b"\xff"), (b"h%d" % n, b"\xfe"),
    ][n % 6]))
END
"#;

#[test]
fn t291_copy_is_lossless_and_the_others_say_what_they_lost() -> Result<()> {
    let cluster = Cluster::up("127.0.85", 3)?;
    write_odd(&cluster)?;
    let text: String = (1..=3000).map(|n| format!("{n}\n")).collect();
    std::fs::write(cluster.path("numbers"), text)?;
    cluster.hydfs(&["create", "numbers", "in/numbers"])?;
    for (format, lost) in [("copy", 0), ("tsv", 1500), ("value", 1000), ("json", 1000)] {
        let dest = format!("out/{format}");
        let args = [
            "--format", format, "1", "2", "./odd", "", "in", &dest, "true", "false",
        ];
        let mut job = cluster.start(format, &args)?;
        job.wait_for_output()?;
        let said_of = job.stderr.clone();
        let summary = job.finish(LIMIT)?;
        ensure!(
            summary["lossy_lines"] == lost,
            "{format}: {lost} are lost: {summary}"
        );
        let said = std::fs::read_to_string(said_of)?;
        ensure!(
            said.contains("cannot be read back") == (lost > 0),
            "{format} says it where it is so: {said}"
        );
    }
    cluster.sorted("out/copy")?;
    let (got, want) = (cluster.oracle(READ_COPY)?, cluster.oracle(ORACLE)?);
    system_tests::compare(&want, &got)
}
