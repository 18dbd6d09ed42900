#!/usr/bin/env python3
"""Kills a node that holds a file, and measures how its copy comes back elsewhere.

repair.py BIN RUN FILE: prints `detection_s repair_s bytes` and then, one a line, `bandwidth seconds MB/s` as the bytes arrived.
Detection is from the kill to the first take-over; the repair from there until the file has all its copies again.
"""
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import time

BIN, RUN, FILE = sys.argv[1:4]
BOUND = 60


def stat():
    out = subprocess.run(
        [f"{BIN}/hydfs", "--patience", "5", "stat", "--json", FILE], capture_output=True, text=True, check=False
    )
    return json.loads(out.stdout) if out.returncode == 0 else None


def pid(node, what):
    with open(f"{RUN}/{node}/{what}.pid") as file:
        return int(file.read())


def written(node):
    """Bytes that the node's storage daemon has written."""
    try:
        with open(f"/proc/{pid(node, 'hydfsd')}/io") as file:
            return int(re.search(r"^wchar: (\d+)", file.read(), re.M).group(1))
    except OSError:
        return 0


def first_event(since, word):
    """When the first line with that event was logged on any node after `since`."""
    found = []
    for node in os.listdir(RUN):
        try:
            with open(f"{RUN}/{node}/log/hydfsd.log") as file:
                lines = [line for line in file if f" {word} " in line]
        except OSError:
            continue
        times = [datetime.datetime.fromisoformat(line.split()[0]).timestamp() for line in lines]
        found += [t for t in times if t >= since]
    return min(found, default=None)


before = stat()
victim = before["replicas"][1]
others = [n for n in os.listdir(RUN) if os.path.exists(f"{RUN}/{n}/hydfsd.pid") and n != victim]
start_bytes = {n: written(n) for n in others}
begun = time.time()
for what in ("hydfsd", "memberd"):
    os.kill(pid(victim, what), signal.SIGKILL)
samples = []
while True:
    now = time.time() - begun
    samples.append((now, sum(written(n) - start_bytes[n] for n in others)))
    known = stat()
    if known and victim not in known["replicas"] and not known["under_replicated"]:
        done = time.time() - begun
        break
    if now > BOUND:
        sys.exit(f"{FILE} has not all its copies again after {BOUND} s")
    time.sleep(0.02)
detected = (first_event(begun, "TAKEOVER") or begun) - begun
print(f"{detected:.3f}\t{max(0.0, done - detected):.3f}\t{before['len']}")
for (t0, b0), (t1, b1) in zip(samples, samples[1:]):
    if b1 > b0:
        print(f"bandwidth\t{t1 - detected:.3f}\t{(b1 - b0) / (t1 - t0) / 1e6:.1f}")
