"""The systems of the comparison: how a job is run in each, and where its output is.

A run gives a dictionary: seconds (first line read to last line out), committed_seconds (to the last line that a reader can
rely on), startup_seconds (from the command typed to the first line read, cold), first_output_seconds (cold, to the first
line that a reader can see), peak_rss_mb (all processes of the system together).
"""
import json
import os
import pathlib
import shutil
import subprocess
import threading
import time

from watch import Watch

HERE = pathlib.Path(__file__).resolve().parent
OPENS = [f"--add-opens=java.base/{p}=ALL-UNNAMED" for p in ("java.util", "java.lang", "java.util.concurrent")]
HEAP = os.environ.get("PEER_HEAP", "4g")
PATIENCE = 1200


class Failed(Exception):
    """The run did not end well; what it said last is in the message."""


class Setting:
    """Where everything is: the data of the jobs, the folder for outputs, the addresses."""

    def __init__(self, out, peers, bin_dir, subnet):
        self.out, self.peers, self.bin = (os.path.realpath(p) for p in (out, peers, bin_dir))
        self.subnet = subnet
        self.runs = 0

    def file(self, job):
        return f"{self.out}/data/{'text' if job[0] == 'T' else 'csv'}"

    def parts(self, job):
        return self.file(job) + ".parts"

    def lines(self, job):
        return int(pathlib.Path(self.file(job) + ".lines").read_text())

    def want(self, job, keyed):
        return f"{self.out}/want/{job}{'' if keyed else '.values'}"

    def folder(self):
        self.runs += 1
        folder = f"{self.out}/work/{os.getpid()}-{self.runs}"
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        return folder

    def java(self):
        return pathlib.Path(self.peers, "java").read_text().strip()


def visible_files(folder):
    """Files that a reader of the output would take: none that is hidden or half done."""
    for place, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if f[0] not in "._"]
        for name in files:
            if name[0] not in "._" and not name.endswith(".crc") and "inprogress" not in name:
                yield os.path.join(place, name)


def has_output(folder):
    return any(os.path.getsize(f) > 0 for f in visible_files(folder) if os.path.exists(f))


def tail(path, n=8):
    try:
        return "".join(pathlib.Path(path).read_text(errors="replace").splitlines(keepends=True)[-n:])
    except OSError:
        return ""


def stop(process):
    """Asks, then kills. Only a process that was started here."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class System:
    name = title = guarantee = ""
    keyed = False  # the output has RainStorm's keys
    counts_by_batch = False  # a running count has one row per key and batch, not one per update
    needs = ""

    def __init__(self, setting):
        self.at = setting

    def environment(self):
        return dict(os.environ)

    def output(self, folder):
        return list(visible_files(folder))


class Engine(System):
    """One JVM that runs a job several times: the first, cold, run warms it up and is not counted for the throughput."""

    def command(self, job, folder, tasks, runs, rate, stamp):
        raise NotImplementedError

    def run(self, job, tasks=3, warm=1, rate=0, stamp=False):
        folder = self.at.folder()
        log = f"{folder}/log"
        began = time.time()
        with open(log, "w") as errors:
            process = subprocess.Popen(
                self.command(job, folder, tasks, warm + 1, rate, stamp), stdout=subprocess.PIPE, stderr=errors, text=True, env=self.environment()
            )
        watch = Watch([process.pid], visible=lambda: has_output(f"{folder}/0"))
        watch.start()
        ends = []
        # An engine that hangs must not hold up the rest.
        limit = threading.Timer(PATIENCE, process.kill)
        limit.start()
        try:
            for line in process.stdout:
                words = line.split()
                if words and words[0] == "end":
                    ends.append([int(w) / 1e9 for w in words[2:5]])
                    # What the warm-up wrote must not wait to be written while the counted run goes.
                    if int(words[1]) < warm:
                        self.output_seen(watch, folder)
                        shutil.rmtree(f"{folder}/{words[1]}", ignore_errors=True)
            process.wait(60)
        finally:
            limit.cancel()
            watch.stop()
            stop(process)
        if process.returncode != 0 or len(ends) != warm + 1:
            raise Failed(f"{self.name} {job}: exit code {process.returncode}: {tail(log)}")
        first, last, committed = ends[-1]
        return {
            "seconds": last - first,
            "committed_seconds": committed - first,
            "startup_seconds": ends[0][0] - began,
            "first_output_seconds": watch.seen - began if watch.seen else None,
            "peak_rss_mb": watch.peak / 1e6,
            "folder": folder,
            "output": self.output(f"{folder}/{warm}"),
        }

    def output_seen(self, watch, folder):
        """The warm-up's folder goes before the watch may have looked again."""
        if watch.seen is None and has_output(f"{folder}/0"):
            watch.seen = time.time()


class Flink(Engine):
    name, title, needs = "flink", "Flink", "flink"
    guarantee = "exactly once, a checkpoint each second; one JVM, one copy"
    kind = "plain"

    def command(self, job, folder, tasks, runs, rate, stamp):
        lib = f"{self.at.peers}/flink"
        java = [f"{self.at.java()}/bin/java", f"-Xmx{HEAP}", *OPENS, "-cp", f"{lib}/peer.jar:{lib}/lib/*", "FlinkPeer"]
        return [*java, job, self.at.parts(job), folder, self.kind, str(tasks), str(runs), str(rate), str(stamp).lower()]


class FlinkTuned(Flink):
    name, title, kind = "flink-tuned", "Flink tuned", "tuned"


class FlinkSpread(Flink):
    """With RainStorm's topology: the source's tasks hand each line to some task of stage 1."""

    name, title, kind = "flink-spread", "Flink tuned, 2 exchanges", "spread"


class Spark(Engine):
    name, title, needs = "spark", "Spark fused", "spark"
    guarantee = "exactly once, micro-batches; one JVM, one copy"
    kind, counts_by_batch = "fused", True

    def environment(self):
        return dict(os.environ, JAVA_HOME=self.at.java(), PEER_HEAP=HEAP, PYSPARK_PYTHON=f"{self.at.peers}/venv/bin/python", SPARK_LOCAL_IP="127.0.0.1")

    def command(self, job, folder, tasks, runs, rate, stamp):
        python = [f"{self.at.peers}/venv/bin/python", str(HERE / "spark/spark_peer.py")]
        return [*python, job, self.at.parts(job), folder, self.kind, str(tasks), str(runs)]


class SparkExchange(Spark):
    name, title, kind = "spark-exchange", "Spark exchange", "exchange"


class Renoir(System):
    name, title, needs = "renoir", "renoir", "renoir"
    guarantee = "none: no fault tolerance; three processes, one copy"

    def start(self, job, folder, tasks, rate):
        cores = max(1, tasks // 3)
        hosts = "".join(f'[[host]]\naddress = "{self.at.subnet}.{51 + i}"\nbase_port = 9500\nnum_cores = {cores}\n\n' for i in range(3))
        os.makedirs(f"{folder}/out")
        processes = []
        for i in range(3):
            with open(f"{folder}/log{i}", "w") as log:
                processes.append(
                    subprocess.Popen(
                        [f"{self.at.peers}/renoir/release/renoir-peer", job, self.at.file(job), f"{folder}/out", str(rate)],
                        stdout=subprocess.PIPE, stderr=log, text=True, env=dict(os.environ, NOIR_HOST_ID=str(i), NOIR_CONFIG=hosts),
                    )
                )
        return processes

    def once(self, job, tasks, rate=0):
        folder = self.at.folder()
        began = time.time()
        processes = self.start(job, folder, tasks, rate)
        watch = Watch([p.pid for p in processes], visible=lambda: has_output(f"{folder}/out"))
        watch.start()
        try:
            said = [p.communicate(timeout=PATIENCE)[0] for p in processes]
        finally:
            watch.stop()
            for process in processes:
                stop(process)
        if any(p.returncode for p in processes):
            raise Failed(f"{self.name} {job}: exit codes {[p.returncode for p in processes]}: {tail(f'{folder}/log0')}")
        times = {word: [int(t.split()[1]) / 1e9 for s in said for t in s.splitlines() if t.startswith(word)] for word in ("first", "last")}
        # A process without a line of the input, or without one of the output, says 0.
        first, last = min(t for t in times["first"] if t), max(times["last"])
        return {
            "seconds": last - first,
            "committed_seconds": last - first,
            "startup_seconds": first - began,
            "first_output_seconds": (watch.seen or last) - began,
            "peak_rss_mb": watch.peak / 1e6,
            "folder": folder,
            "output": self.output(f"{folder}/out"),
        }

    def run(self, job, tasks=3, warm=1, rate=0, stamp=False):
        # Its processes are new for each run, as RainStorm's are; only the input is warm.
        for _ in range(warm):
            shutil.rmtree(self.once(job, tasks, rate)["folder"])
        return self.once(job, tasks, rate)


class RainStorm(System):
    name, title = "rainstorm", "RainStorm"
    guarantee = "exactly once, nine processes on three nodes over SSH and TCP, three copies of everything"
    keyed = True

    def leader(self, job, tasks, rate, console, summary):
        self.at.runs += 1
        destination = f"out/compare-{os.getpid()}-{self.at.runs}"
        args = pathlib.Path(f"{self.at.out}/jobs/{job}").read_bytes().decode().split("\0")[:-1]
        args[1] = str(tasks)
        source = "text" if job[0] == "T" else "csv"
        name = destination.replace("/", "-")
        command = [f"{self.at.bin}/leader", "--job", name, "--console", console, "--progress", "never", "--summary", summary, *args, source, destination]
        return [*command, "true", "false", str(rate)], name, destination

    def hydfs(self, *args):
        subprocess.run([f"{self.at.bin}/hydfs", *args], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def marks(self):
        # Of this cluster: its daemons, sshd's sessions and so its workers, and the leader.
        return [os.path.dirname(os.environ["RAINSTORM_CLUSTER"]) + "/"]

    def first_output(self, job, tasks, folder):
        """One run whose output goes to the console, as a user sees it. Seconds to its first line."""
        command, _, destination = self.leader(job, tasks, 0, "all", f"{folder}/summary-first")
        began = time.time()
        with open(f"{folder}/log-first", "w") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
            process.stdout.read(1)
            seconds = time.time() - began
            while process.stdout.read(1 << 20):
                pass
        if process.returncode != 0:
            raise Failed(f"{self.name} {job}: {tail(f'{folder}/log-first')}")
        self.hydfs("rm", destination)
        return seconds

    def run(self, job, tasks=3, warm=1, rate=0, stamp=False):
        folder = self.at.folder()
        first = self.first_output(job, tasks, folder) if warm else None
        command, _, destination = self.leader(job, tasks, rate, "none", f"{folder}/summary")
        with open(f"{folder}/log", "w") as log:
            leader = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        watch = Watch([leader.pid], self.marks())
        watch.start()
        try:
            code = leader.wait(PATIENCE)
        finally:
            watch.stop()
            stop(leader)
        if code != 0:
            raise Failed(f"{self.name} {job}: exit code {code}: {tail(f'{folder}/log')}")
        summary = json.loads(pathlib.Path(folder, "summary").read_text())
        self.hydfs("get", destination, f"{folder}/got")
        self.hydfs("rm", destination)
        return {
            "seconds": summary["seconds"],
            "committed_seconds": summary["seconds"],
            "startup_seconds": summary["startup_seconds"],
            "first_output_seconds": first,
            "peak_rss_mb": watch.peak / 1e6,
            "latency_ms": summary.get("latency_ms"),
            "folder": folder,
            "output": [f"{folder}/got"],
        }


SYSTEMS = {s.name: s for s in (RainStorm, Spark, SparkExchange, Flink, FlinkTuned, FlinkSpread, Renoir)}
