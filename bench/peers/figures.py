#!/usr/bin/env python3
"""Makes table.md and the plots of a comparison from its trials: figures.py TRIALS.jsonl DIR. Only checked trials count."""
import json
import os
import pathlib
import statistics
import subprocess
import sys

from systems import SYSTEMS

PLOT = pathlib.Path(__file__).resolve().parent.parent / "plot.py"
JOBS = "T0 T1 T2 C0 C1 C2".split()


def read(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def spread(values, digits=2):
    if not values:
        return "-"
    deviation = f" ±{statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.median(values):.{digits}f}{deviation}"


def of(trials, key, **where):
    """The figures of the checked trials of that kind."""
    return [t[key] for t in trials if t.get("checked") and t.get(key) is not None and all(t.get(k) == v for k, v in where.items())]


def seen(trials, part, key, order=None):
    values = {t[key] for t in trials if t["part"] == part and key in t}
    return [v for v in order if v in values] if order else sorted(values)


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def by_job(trials, key, title, digits=2):
    jobs, systems = seen(trials, "throughput", "experiment", JOBS), seen(trials, "throughput", "system", list(SYSTEMS))
    rows = [[SYSTEMS[s].title, *(spread(of(trials, key, part="throughput", system=s, experiment=j), digits) for j in jobs)] for s in systems]
    return [title, "", *table(["", *jobs], rows)] if rows else []


def by_tasks(trials):
    counts, systems = seen(trials, "tasks", "tasks"), seen(trials, "tasks", "system", list(SYSTEMS))
    rows = [[SYSTEMS[s].title, *(spread(of(trials, "million_lines_per_second", part="tasks", system=s, tasks=n)) for n in counts)] for s in systems]
    return ["T1, million lines/s, by tasks per stage:", "", *table(["", *map(str, counts)], rows)] if rows else []


def one_line(record):
    if "error" in record and "silent_seconds" not in record:
        return record["error"].strip().splitlines()[-1][:120]
    silent = f"output silent for {record['silent_seconds']:.2f} s, caught up after {record['behind_seconds']:.2f} s" if record.get("behind_seconds") is not None else "output did not go on"
    said = f" ({record['error']})" if "error" in record else ""
    return f"{silent}{said}; the result is {'right' if record['checked'] else 'WRONG'}"


def kills(trials):
    rows = [[SYSTEMS[t["system"]].title, str(t["trial"]), t["killed"], one_line(t)] for t in trials if t["part"] == "kill"]
    return ["kill -9 of one process in mid-run, C2 at a steady rate:", "", *table(["", "trial", "killed", "what came"], rows)] if rows else []


def latencies(trials):
    rows = []
    for s in seen(trials, "latency", "system", list(SYSTEMS)):
        where = {"part": "latency", "system": s}
        rows.append([SYSTEMS[s].title, spread(of(trials, "p50_ms", **where), 0), spread(of(trials, "p99_ms", **where), 0), spread(of(trials, "rate", **where), 0)])
    return ["T1 at half of each system's speed, ms from read to output that can be relied on:", "", *table(["", "p50", "p99", "lines/s"], rows)] if rows else []


def refused(trials):
    bad = [t for t in trials if not t.get("checked")]
    return [f"Not counted: {t['part']} {t['system']} {t['experiment']} trial {t['trial']}: {t.get('error', 'the output is wrong').strip()[:200]}" for t in bad if t["part"] != "kill"]


def plot(out, title, x, y, points, *options):
    if points:
        lines = "".join(f"{s}\t{a}\t{b}\n" for s, a, b in points)
        subprocess.run([sys.executable, str(PLOT), *options, out, title, x, y], input=lines, text=True, check=True)


def main():
    trials, to = read(sys.argv[1]), sys.argv[2]
    text = by_job(trials, "million_lines_per_second", "Million lines/s, median and standard deviation, from the first line read to the last line out:")
    text += by_job(trials, "startup_seconds", "Seconds from the command typed to the first line read, cold:")
    text += by_job(trials, "first_output_seconds", "Seconds from the command typed to the first line that a reader can see, cold:")
    text += by_job(trials, "peak_rss_mb", "Peak resident memory of all processes, MB:", 0)
    text += by_tasks(trials) + latencies(trials) + kills(trials) + refused(trials)
    loads = [t["load"] for t in trials if "load" in t]
    if loads:
        text += ["", f"Load of the machine before the trials: {min(loads):.1f} to {max(loads):.1f} on {os.cpu_count()} cores."]
    pathlib.Path(to, "table.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))

    fast = [(t["system"], t["experiment"], t["million_lines_per_second"]) for t in trials if t["part"] == "throughput" and t["checked"]]
    for kind, title in (("T", "Text"), ("C", "Table")):
        points = [(SYSTEMS[s].title, j, v) for s, j, v in fast if j[0] == kind]
        plot(f"{to}/throughput-{kind}.svg", f"{title}: throughput", "job", "million lines/s", points, "--bars")
    memory = [(SYSTEMS[t["system"]].title, t["experiment"], t["peak_rss_mb"]) for t in trials if t["part"] == "throughput" and t["checked"]]
    plot(f"{to}/memory.svg", "Peak memory of all processes", "job", "MB", memory, "--bars")
    first = [(SYSTEMS[t["system"]].title, t["experiment"], t["first_output_seconds"]) for t in trials if t["part"] == "throughput" and t["checked"] and t.get("first_output_seconds")]
    plot(f"{to}/first-output.svg", "From the command to the first output, cold", "job", "seconds", first, "--bars")
    many = [(SYSTEMS[t["system"]].title, t["tasks"], t["million_lines_per_second"]) for t in trials if t["part"] == "tasks" and t["checked"]]
    plot(f"{to}/tasks.svg", "T1: throughput by tasks per stage", "tasks per stage", "million lines/s", many)
    for record in (t for t in trials if t["part"] == "kill" and t.get("progress")):
        series = [(SYSTEMS[record["system"]].title, at, lines / 1000) for at, lines in record["progress"]]
        plot(f"{to}/kill-{record['system']}-{record['trial']}.svg", f"{SYSTEMS[record['system']].title}: output around kill -9 (at 0 s)", "seconds", "thousand lines out", series)


main()
