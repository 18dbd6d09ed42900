"""How old a line is when its result can be relied on, at a rate that the system has room for.

RainStorm measures it itself, from the source's read to the durable output. Of Flink the read is stamped into the line and
the commit is the time at which the file got its final name. Of Spark it is from a file's appearance to its batch's commit.
"""
import json
import os
import pathlib
import shutil
import subprocess
import time

from check import check
from systems import Failed, stop, visible_files


def percentile(values, part):
    return values[min(len(values) - 1, int(len(values) * part))] if values else None


def text_lines(path):
    """Python's own idea of lines has more ends than a newline."""
    return pathlib.Path(path).read_bytes().decode().split("\n")[:-1]


def figures(milliseconds, right):
    ages = sorted(milliseconds)
    return {"p50_ms": percentile(ages, 0.5), "p99_ms": percentile(ages, 0.99), "checked": right and bool(ages)}


def of_flink(at, system, job, rate):
    run = system.run(job, warm=0, rate=rate, stamp=True)
    ages, values = [], []
    for path in visible_files(f"{run['folder']}/0"):
        # A file's inode changes last when it gets its final name.
        committed = os.stat(path).st_ctime_ns / 1e6
        for line in text_lines(path):
            value, _, stamp = line.rpartition("\x01")
            ages.append(committed - int(stamp))
            values.append(value)
    want = text_lines(at.want(job, False))
    shutil.rmtree(run["folder"])
    return figures(ages, sorted(values) == sorted(want))


def of_rainstorm(at, system, job, rate):
    run = system.run(job, warm=0, rate=rate)
    right, _ = check(run["output"], at.want(job, True), False, at.out)
    shutil.rmtree(run["folder"])
    said = run["latency_ms"]
    return {"p50_ms": said["p50"], "p99_ms": said["p99"], "checked": right}


def of_spark(at, system, job, rate, seconds):
    """Ten files a second appear; a line is as old as its file when the batch that took the file is committed."""
    folder = at.folder()
    source, lines = f"{folder}/input", max(1, rate // 10)
    os.makedirs(source)
    command = [*system.command(job, folder, 3, 1, 0, False), "local[*]"]
    command[command.index(at.parts(job))] = source
    with open(f"{folder}/log", "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=system.environment())
    appeared, want = {}, []
    try:
        with open(at.file(job), newline="\n", encoding="utf-8") as data:
            began = None
            for i in range(seconds * 10):
                name = f"part{i:05}"
                piece = [line for _, line in zip(range(lines), data)]
                want += [line.rstrip("\n").replace("static", "STATIC") for line in piece if "static" in line]
                pathlib.Path(source, f".{name}").write_text("".join(piece), encoding="utf-8")
                os.rename(f"{source}/.{name}", f"{source}/{name}")
                appeared[name] = time.time()
                # The first file waits for the engine; the schedule begins when that has an output folder.
                while i == 0 and process.poll() is None and not os.path.exists(f"{folder}/0"):
                    time.sleep(0.1)
                began = began or time.time() - 0.1
                time.sleep(max(0.0, began + (i + 1) / 10 - time.time()))
        pathlib.Path(folder, "fed").touch()
        process.wait(300)
    finally:
        stop(process)
    ages = []
    log = pathlib.Path(folder, "checkpoint-0")
    for path in log.glob("sources/0/[0-9]*"):
        for line in path.read_text().splitlines()[1:]:
            entry = json.loads(line)
            name = entry["path"].rsplit("/", 1)[1]
            # The first third warms the engine up.
            if name >= f"part{seconds * 10 // 3:05}":
                ages.append((os.stat(log / "commits" / str(entry["batchId"])).st_mtime - appeared[name]) * 1000)
    got = [line for path in visible_files(f"{folder}/0") for line in text_lines(path)]
    shutil.rmtree(folder)
    return figures(ages, sorted(got) == sorted(want))


def latency(at, system, job, rate, seconds):
    try:
        if system.name == "flink":
            found = {"error": "not measured: its files are not to be seen before a minute is over", "checked": False}
        elif system.name == "flink-tuned":
            found = of_flink(at, system, job, rate)
        elif system.name.startswith("spark"):
            found = of_spark(at, system, job, rate, seconds)
        elif system.name == "rainstorm":
            found = of_rainstorm(at, system, job, rate)
        else:
            found = {"error": "not measured: its output has no commit", "checked": False}
    except (Failed, OSError, ValueError, subprocess.SubprocessError) as error:
        found = {"error": f"{type(error).__name__}: {error}", "checked": False}
    return {"rate": rate} | found
