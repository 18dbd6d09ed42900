#!/usr/bin/env python3
"""Makes report.pdf from the kept figures: make.py [TRIALS.jsonl]. With trials, these become the kept ones.

The text is report.typ; tables, plots and the numbers in the text come from figures/trials.json and from nowhere else.
"""
import json
import pathlib
import statistics
import subprocess
import sys

import typst

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "bench/peers"))
from systems import SYSTEMS  # noqa: E402

JOBS = "T0 T1 T2 C0 C1 C2".split()
# The row format of Flink and what users write of Spark are in the table; a plot of six columns is too full.
PLOTTED = ["rainstorm", "spark", "flink-tuned", "renoir"]


def keep(path):
    """The trials go into the repository, without what the report has no use for. Of the kills one curve for each system."""
    kept = []
    for line in pathlib.Path(path).read_text().splitlines():
        record = json.loads(line)
        for name in ("bytes", "settled_seconds", "latency_ms", "committed_seconds"):
            record.pop(name, None)
        if "progress" in record:
            record["progress"] = record["progress"] if record["trial"] == 1 else None
        kept.append(json.dumps(record))
    (HERE / "figures/trials.json").write_text("[\n" + ",\n".join(kept) + "\n]\n")


def figures(trials, part, key, **where):
    return [t[key] for t in trials if t["part"] == part and t.get("checked") and t.get(key) is not None and all(t.get(k) == v for k, v in where.items())]


def shown(values, digits):
    if not values:
        return "–"
    deviation = f" ±{statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.median(values):.{digits}f}{deviation}"


def jobs_table(trials, key, digits):
    rows = []
    for name, system in SYSTEMS.items():
        row = [shown(figures(trials, "throughput", key, system=name, experiment=j), digits) for j in JOBS]
        if any(cell != "–" for cell in row):
            rows.append([system.title, *row])
    return rows


def ahead(trials, key, less, what):
    """Who is better than RainStorm in which job, for the first sentence on that figure."""
    said = []
    for name, system in SYSTEMS.items():
        wins = []
        for job in JOBS:
            ours, theirs = (figures(trials, "throughput", key, system=s, experiment=job) for s in ("rainstorm", name))
            ratio = statistics.median(theirs) / statistics.median(ours) if ours and theirs else 1
            ratio = 1 / ratio if less else ratio
            if ratio > 1:
                wins.append(f"{job} ({ratio:.1f} times)")
        if wins:
            said.append(f"{system.title} is ahead of RainStorm in {', '.join(wins)}")
    return ". ".join(said) + "." if said else f"No peer is ahead of RainStorm in {what}."


def slower(trials):
    """RainStorm's speed as a multiple of each peer's, over the jobs."""
    said = {}
    for name in SYSTEMS:
        ratios = []
        for job in JOBS:
            ours, theirs = (figures(trials, "throughput", "million_lines_per_second", system=s, experiment=job) for s in ("rainstorm", name))
            if ours and theirs:
                ratios.append(statistics.median(ours) / statistics.median(theirs))
        said[name] = f"{min(ratios):.1f} to {max(ratios):.1f}" if ratios else "–"
    return said


def kills(trials):
    rows = []
    for name, system in SYSTEMS.items():
        mine = [t for t in trials if t["part"] == "kill" and t["system"] == name and "silent_seconds" in t]
        if not mine:
            continue
        behind = [t["behind_seconds"] for t in mine if t["checked"] and t["behind_seconds"] is not None]
        silent = [t["silent_seconds"] for t in mine if t["checked"] and t["silent_seconds"] is not None]
        right = sum(t["checked"] for t in mine)
        rows.append([system.title, mine[0]["killed"].split(" (")[0], shown(silent, 2), shown(behind, 2), f"{right} of {len(mine)}"])
    return rows


def latencies(trials):
    rows = []
    for name, system in SYSTEMS.items():
        if p50 := figures(trials, "latency", "p50_ms", system=name):
            rows.append([system.title, shown(p50, 0), shown(figures(trials, "latency", "p99_ms", system=name), 0)])
    return rows


def plot(name, title, x, y, points, *options):
    if not points:
        return False
    lines = "".join(f"{s}\t{a}\t{b}\n" for s, a, b in points)
    command = [sys.executable, str(ROOT / "bench/plot.py"), "--small", *options, str(HERE / f"figures/{name}.svg"), title, x, y]
    subprocess.run(command, input=lines, text=True, check=True)
    return True


def plots(trials):
    def bars(key):
        """The plotted systems' trials in the order of the jobs and of the systems."""
        mine = [t for t in trials if t["part"] == "throughput" and t["checked"] and t["system"] in PLOTTED and t.get(key) is not None]
        mine.sort(key=lambda t: (PLOTTED.index(t["system"]), JOBS.index(t["experiment"])))
        return [(SYSTEMS[t["system"]].title, t["experiment"], t[key]) for t in mine]

    speed = bars("million_lines_per_second")
    # In one order everywhere, so that a system has one colour in the plots that show the same ones.
    trials = sorted(trials, key=lambda t: (PLOTTED.index(t["system"]) if t["system"] in PLOTTED else len(PLOTTED), t["trial"]))
    many = [(SYSTEMS[t["system"]].title, t["tasks"], t["million_lines_per_second"]) for t in trials if t["part"] == "tasks" and t["checked"] and t["system"] in PLOTTED]
    killed = []
    for t in (t for t in trials if t["part"] == "kill" and t.get("progress")):
        window = [(at, lines) for at, lines in t["progress"] if -5 <= at <= 30]
        # Each begins at nought, five seconds before the kill.
        killed += [(SYSTEMS[t["system"]].title, at + 5, (lines - window[0][1]) / 1000) for at, lines in window]
    return {
        "text": plot("text", "Text jobs", "job", "million lines/s", [p for p in speed if p[1][0] == "T"], "--bars"),
        "table": plot("table", "Table jobs", "job", "million lines/s", [p for p in speed if p[1][0] == "C"], "--bars"),
        "first": plot("first", "From the command to the first output", "job", "seconds", bars("first_output_seconds"), "--bars"),
        "memory": plot("memory", "Peak memory", "job", "MB", bars("peak_rss_mb"), "--bars"),
        "tasks": plot("tasks", "T1 with more tasks", "tasks per stage", "million lines/s", many),
        "kill": plot("kill", "Output around kill -9 at 5 s", "seconds", "thousand lines out", killed),
    }


def main():
    if len(sys.argv) > 1:
        keep(sys.argv[1])
    source = HERE / "figures/trials.json"
    trials = json.loads(source.read_text()) if source.exists() else []
    measured = {
        "speed": jobs_table(trials, "million_lines_per_second", 2),
        "memory": jobs_table(trials, "peak_rss_mb", 0),
        "first": jobs_table(trials, "first_output_seconds", 2),
        "ahead": ahead(trials, "million_lines_per_second", False, "throughput"),
        "ahead_first": ahead(trials, "first_output_seconds", True, "the time to the first output"),
        "ahead_memory": ahead(trials, "peak_rss_mb", True, "memory"),
        "times": slower(trials), "kills": kills(trials), "latency": latencies(trials), "plots": plots(trials),
        "lines": {j: f"{max(n for n in figures(trials, 'throughput', 'lines', experiment=j)) / 1e6:.1f}" for j in JOBS if figures(trials, "throughput", "lines", experiment=j)},
        "trials": max((t["trial"] for t in trials if t["part"] == "throughput"), default=0),
        "day": max((t["at"][:10] for t in trials if "at" in t), default="-"),
        "load": f"{max((t['load'] for t in trials if 'load' in t), default=0):.1f}",
    }
    page = HERE / "report.typ"
    # Typst reads only below its root; the numbers are handed in.
    inputs = {"measured": json.dumps(measured)}
    pictures = typst.compile(str(page), format="png", ppi=90, sys_inputs=inputs)
    pictures = pictures if isinstance(pictures, list) else [pictures]
    pages = len(pictures)
    # To be looked at; git does not keep them.
    for number, picture in enumerate(pictures, 1):
        (HERE / f"page-{number}.png").write_bytes(picture)
    if pages > 3:
        sys.exit(f"error: the report has {pages} pages; at most 3 are allowed")
    typst.compile(str(page), output=str(HERE / "report.pdf"), sys_inputs=inputs)
    print(f"docs/report/report.pdf: {pages} pages, {len(trials)} trials")


main()
