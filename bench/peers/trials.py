#!/usr/bin/env python3
"""Runs the trials of bench/compare.sh, which makes the data, the oracles and the cluster, and keeps one JSON line for each.

trials.py --out DIR --peers DIR --bin DIR --subnet A.B.C --results FILE --part throughput|tasks|latency ...
"""
import argparse
import datetime
import json
import os
import pathlib
import shutil
import signal
import sys
import time

from check import check
from latency import latency
from systems import SYSTEMS, Failed, Setting
from watch import settle


def note(path, record):
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def clean(record):
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in record.items() if k not in ("folder", "output")}


def trial(at, system, job, number, options, part, tasks=3, rate=0):
    """One run, checked and kept. A run that fails is kept too, by what it said."""
    waited = settle()
    record = {
        "part": part, "system": system.name, "experiment": job, "trial": number, "tasks": tasks, "rate": rate,
        "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "load": os.getloadavg()[0], "settled_seconds": waited, "lines": at.lines(job), "bytes": os.path.getsize(at.file(job)), "checked": False,
    }
    folder = None
    try:
        run = system.run(job, tasks=tasks, warm=options.warm, rate=rate)
        folder = run["folder"]
        record |= run
        by_batch = system.counts_by_batch and job[1] == "2"
        record["checked"], record["lines_out"] = check(run["output"], at.want(job, system.keyed), by_batch, at.out)
        record["million_lines_per_second"] = at.lines(job) / run["seconds"] / 1e6
    except (Failed, OSError, ValueError) as error:
        record["error"] = str(error)
    note(options.results, clean(record))
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    said = "WRONG" if "error" not in record else "failed: " + record["error"].strip().splitlines()[-1][:200]
    speed = f"{record['million_lines_per_second']:7.2f} M lines/s" if record["checked"] else said
    print(f"    {number}  {job}  {tasks:>2} tasks  {system.name:<15} {speed}", flush=True)
    return record


def rotated(items, by):
    by %= len(items) or 1
    return items[by:] + items[:by]


def throughput(at, systems, options):
    for number in range(1, options.runs + 1):
        for i, job in enumerate(options.experiments):
            # Whoever comes first has a disk that has rested longer: each is first in its turn.
            for system in rotated(systems, number + i):
                trial(at, system, job, number, options, "throughput")


def tasks(at, systems, options):
    for number in range(1, options.runs + 1):
        for i, count in enumerate(options.tasks):
            for system in rotated(systems, number + i):
                trial(at, system, "T1", number, options, "tasks", tasks=count)


def half_load(at, systems, options):
    """T1 at half of what the throughput trials of this run gave."""
    speeds = {}
    for line in pathlib.Path(options.results).read_text().splitlines():
        record = json.loads(line)
        if record["part"] == "throughput" and record["experiment"] == "T1" and record["checked"]:
            speeds.setdefault(record["system"], []).append(record["lines"] / record["seconds"])
    for system in systems:
        speed = sorted(speeds.get(system.name, []))
        if not speed:
            print(f"    {system.name}: no checked speed to take the half of")
            continue
        for number in range(1, options.runs + 1):
            settle()
            record = latency(at, system, "T1", int(speed[len(speed) // 2] / 2), options.seconds)
            record |= {"part": "latency", "system": system.name, "experiment": "T1", "trial": number}
            print(f"    {number}  {system.name:<15} {clean(record)}", flush=True)
            if record.get("error", "").startswith("not measured"):
                break
            note(options.results, clean(record))


def main():
    parse = argparse.ArgumentParser()
    for name in ("out", "peers", "bin", "subnet", "results", "part"):
        parse.add_argument(f"--{name}", required=True)
    parse.add_argument("--systems", type=str.split, default=list(SYSTEMS))
    parse.add_argument("--experiments", type=str.split, default="T0 T1 T2 C0 C1 C2".split())
    parse.add_argument("--tasks", type=lambda text: [int(t) for t in text.split()], default=[3, 6, 12, 24])
    parse.add_argument("--runs", type=int, default=3)
    parse.add_argument("--warm", type=int, default=1)
    parse.add_argument("--seconds", type=int, default=15)
    options = parse.parse_args()
    # So that what was started is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    at = Setting(options.out, options.peers, options.bin, options.subnet)
    systems = [SYSTEMS[name](at) for name in options.systems]
    began = time.time()
    {"throughput": throughput, "tasks": tasks, "latency": half_load}[options.part](at, systems, options)
    print(f"    {options.part}: {time.time() - began:.0f} s")
    shutil.rmtree(f"{at.out}/work", ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
