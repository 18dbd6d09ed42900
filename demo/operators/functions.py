#!/usr/bin/env python3
"""Text protocol, transform: one tuple <name, where> for each function that a line of Rust declares."""

import re
import sys

DECLARED = re.compile(rb"(?<![A-Za-z0-9_])fn ([A-Za-z_][A-Za-z0-9_]*)")
source, out = sys.stdin.buffer, sys.stdout.buffer

for key, value in zip(source, source):  # two lines each: `key: K`, `value: V`
    where = key.removeprefix(b"key: ")
    for name in DECLARED.findall(value.removeprefix(b"value: ")):
        out.write(b"emit\nkey: %s\nvalue: %s" % (name, where))
    out.write(b"end\n")
    out.flush()
