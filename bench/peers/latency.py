"""How old a line is when its result can be relied on, at a rate that the system has room for.

RainStorm measures it itself, from the source's read to the durable output. Of Flink the read is stamped into the line and
the commit is the time at which the file got its final name. Of Spark it is from a file's appearance to its batch's commit.
"""
import json
import os
import pathlib
import shutil

from systems import visible_files


def percentile(values, part):
    return values[min(len(values) - 1, int(len(values) * part))] if values else None


def figures(milliseconds, right):
    ages = sorted(milliseconds)
    return {"p50_ms": percentile(ages, 0.5), "p99_ms": percentile(ages, 0.99), "lines_out": len(ages), "checked": right and bool(ages)}


def of_flink(at, system, job, rate):
    run = system.run(job, warm=0, rate=rate, stamp=True)
    ages, values = [], []
    for path in visible_files(f"{run['folder']}/0"):
        # A file's inode changes last when it gets its final name.
        committed = os.stat(path).st_ctime_ns / 1e6
        for line in open(path, encoding="utf-8"):
            value, _, stamp = line.rstrip("\n").rpartition("\x01")
            ages.append(committed - int(stamp))
            values.append(value)
    want = pathlib.Path(at.want(job, False)).read_text().splitlines()
    shutil.rmtree(run["folder"])
    return figures(ages, sorted(values) == want)


def of_rainstorm(at, system, job, rate):
    from check import check

    run = system.run(job, warm=0, rate=rate)
    right, lines = check(run["output"], at.want(job, True), False, at.out)
    shutil.rmtree(run["folder"])
    said = run["latency_ms"]
    return {"p50_ms": said["p50"], "p99_ms": said["p99"], "lines_out": lines, "checked": right}


def latency(at, system, job, rate, _seconds):
    record = {"rate": rate}
    if system.name.startswith("flink"):
        return record | of_flink(at, system, job, rate)
    if system.name == "rainstorm":
        return record | of_rainstorm(at, system, job, rate)
    return record | {"error": "not measured", "checked": False}
