#!/usr/bin/env python3
"""kill -9 of one process in mid-run: C2 at a steady rate, what came out when, and whether the result is right.

A part of bench/compare.sh (--parts kill), which says with what. Flink has its TaskManagers as processes, one of them to
spare, and a restart strategy; Spark a master and three workers, of which an executor is killed; renoir its three processes;
of RainStorm's nine it is one that counts.
"""
import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request

from check import check
from systems import HEAP, OPENS, SYSTEMS, Failed, Setting, stop, tail, visible_files
from trials import clean, note
from watch import command_of, family, settle

JOB = "C2"
PATIENCE = 180


class Growth:
    """How many lines of output a reader could see, and when."""

    def __init__(self):
        self.samples, self.files, self.lines = [], {}, 0

    def look(self, folder):
        """New bytes of the files in a folder."""
        for path in visible_files(folder):
            try:
                with open(path, "rb") as file:
                    file.seek(self.files.get(path, 0))
                    new = file.read()
            except OSError:
                continue
            self.files[path] = self.files.get(path, 0) + len(new)
            self.lines += new.count(b"\n")
        self.note(self.lines)

    def note(self, lines):
        self.samples.append((time.time(), lines))


class BatchGrowth(Growth):
    """Of Spark's counts: one row per key and batch, so the sum of the keys' last counts."""

    def __init__(self):
        super().__init__()
        self.last, self.done = {}, set()

    def look(self, folder):
        for place in sorted(pathlib.Path(folder).glob("batch-*/_SUCCESS")):
            if place.parent in self.done:
                continue
            self.done.add(place.parent)
            for path in place.parent.glob("part-*"):
                for line in path.read_text().splitlines():
                    key, _, n = line.rpartition("\t")
                    self.last[key] = max(self.last.get(key, 0), int(n))
        self.note(sum(self.last.values()))


def analyse(samples, killed, rate_out):
    """Seconds of silence around the kill, seconds until output was where it would have been, and the curve for a plot."""
    curve = [(at - killed, lines) for at, lines in samples]
    steps = [curve[0]] + [b for a, b in zip(curve, curve[1:]) if b[1] > a[1]]
    gaps = [(b[0] - a[0], a[0], b[0]) for a, b in zip(steps, steps[1:])]
    after = [g for g, _, end in gaps if end > 0]
    before = [g for g, start, end in gaps if start > -5 and end <= 0]
    behind = [(t, rate_out * t - lines) for t, lines in curve]
    usual = max((d for t, d in behind if -5 < t <= 0), default=0)
    # The schedule goes no further than all that comes out.
    total = curve[-1][1]
    late = [t for t, lines in curve if t > 0 and min(rate_out * t, total) - lines > usual + rate_out * 0.02]
    caught_up = 0.0
    for t in late:
        # Late again after seconds on time is not the kill's doing.
        if t - caught_up > 3:
            break
        caught_up = t
    # The curve is kept for the plot: not more points than one can see.
    thin = curve[:: max(1, len(curve) // 150)]
    return {
        "silent_seconds": max(after, default=None),
        "usual_silence_seconds": max(before, default=None),
        "behind_seconds": caught_up,
        "progress": [[round(t, 2), lines] for t, lines in thin],
    }


class Run:
    """One system's run: start, find the victim, kill, wait for the end."""

    growth = Growth
    by_batch = False

    def __init__(self, at, options):
        self.at, self.options = at, options
        self.folder = at.folder()
        self.out = f"{self.folder}/0"
        self.children = []
        self.grown = self.growth()

    def spawn(self, name, command, env=None, **more):
        log = open(f"{self.folder}/{name}.log", "w")
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, **more)
        self.children.append(child)
        return child

    def start(self):
        raise NotImplementedError

    def victim(self):
        """The pid to kill, and what it is."""
        raise NotImplementedError

    def ended(self):
        raise NotImplementedError

    def look(self):
        self.grown.look(self.out)

    def output(self):
        return list(visible_files(self.out))

    def what_next(self):
        return ""

    def close(self):
        for child in reversed(self.children):
            stop(child)


class RainStormRun(Run):
    def start(self):
        system = SYSTEMS["rainstorm"](self.at)
        command, self.job, self.destination = system.leader(JOB, 3, self.options.rate, "all", f"{self.folder}/summary")
        self.system = system
        # The part's data are a file of their own.
        command = ["kill" if word == "csv" else word for word in command]
        self.leader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=open(f"{self.folder}/leader.log", "w"))
        self.children.append(self.leader)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        while piece := os.read(self.leader.stdout.fileno(), 1 << 16):
            self.grown.lines += piece.count(b"\n")

    def look(self):
        self.grown.note(self.grown.lines)

    def victim(self):
        said = subprocess.run([f"{self.at.bin}/rainstormctl", "list_tasks", self.job, "--json"], capture_output=True, text=True, check=True)
        task = next(t for t in json.loads(said.stdout) if t["task"] == "s2t0")
        return task["pid"], "a worker (a task that counts)"

    def ended(self):
        return self.leader.poll() is not None

    def output(self):
        self.reader.join(30)
        self.system.hydfs("get", self.destination, f"{self.folder}/got")
        self.system.hydfs("rm", self.destination)
        return [f"{self.folder}/got"]


class RenoirRun(Run):
    def start(self):
        self.out = f"{self.folder}/out"
        system = SYSTEMS["renoir"](self.at)
        # The processes get the part's own data.
        system.at = KillData(self.at, self.options)
        self.processes = system.start(JOB, self.folder, 3, self.options.rate)
        self.children += self.processes

    def victim(self):
        return self.processes[1].pid, "one of three processes"

    def ended(self):
        left = [p for p in self.processes if p.poll() is None]
        # The others may wait for the dead one for ever; what they write by then is all there is.
        quiet = self.grown.samples and time.time() - max((at for at, n in self.grown.samples if n < self.grown.lines), default=time.time()) > 20
        return not left or quiet

    def what_next(self):
        codes = [p.poll() for p in self.processes]
        return f"the others end too, or wait for ever: exit codes {codes}"


class FlinkRun(Run):
    """With the buffered sink in both: the plain one's files are not to be seen before a minute is over."""

    heartbeat = {}

    def properties(self, address):
        memory = {"task.heap.size": "512m", "task.off-heap.size": "0m", "network.min": "64m", "network.max": "64m", "managed.size": "32m",
                  "framework.heap.size": "128m", "framework.off-heap.size": "128m", "jvm-metaspace.size": "256m", "jvm-overhead.min": "64m", "jvm-overhead.max": "64m"}
        settings = {f"taskmanager.memory.{k}": v for k, v in memory.items()}
        settings |= {"taskmanager.cpu.cores": "1.0", "taskmanager.numberOfTaskSlots": "1", "taskmanager.host": address, "taskmanager.bind-host": address}
        settings |= {"jobmanager.rpc.address": self.manager, "jobmanager.bind-host": self.manager, "jobmanager.rpc.port": "6123"}
        settings |= {"rest.address": self.manager, "rest.bind-address": self.manager, "rest.port": "8081", "parallelism.default": "3"}
        return settings | self.heartbeat

    def java(self, name, main, address, *more):
        conf = f"{self.folder}/{name}"
        os.makedirs(conf)
        settings = self.properties(address) | {"taskmanager.resource-id": name, "io.tmp.dirs": conf}
        pathlib.Path(conf, "config.yaml").write_text("".join(f"{k}: {v}\n" for k, v in settings.items()))
        lib = f"{self.at.peers}/flink/lib/*"
        return self.spawn(name, [f"{self.at.java()}/bin/java", "-Xmx768m", *OPENS, "-cp", lib, main, "--configDir", conf, *more])

    def rest(self, path):
        with urllib.request.urlopen(f"http://{self.manager}:8081{path}", timeout=5) as answer:
            return json.load(answer)

    def start(self):
        self.manager = f"{self.at.subnet}.61"
        self.java("jobmanager", "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint", self.manager)
        # One to spare: without it the job waits until somebody starts another.
        self.managers = {f"taskmanager{i}": self.java(f"taskmanager{i}", "org.apache.flink.runtime.taskexecutor.TaskManagerRunner", f"{self.at.subnet}.{62 + i}") for i in range(4)}
        deadline = time.time() + 60
        while True:
            try:
                if self.rest("/overview")["taskmanagers"] == 4:
                    break
            except OSError:
                pass
            if time.time() > deadline:
                raise Failed(f"Flink's cluster did not come up: {tail(f'{self.folder}/jobmanager.log')}")
            time.sleep(0.2)
        data = KillData(self.at, self.options)
        jar = f"{self.at.peers}/flink/peer.jar"
        java = [f"{self.at.java()}/bin/java", "-Xmx512m", *OPENS, "-cp", f"{jar}:{self.at.peers}/flink/lib/*", "FlinkPeer"]
        self.client = self.spawn("client", [*java, JOB, data.parts(JOB), self.folder, "tuned", "3", "1", str(self.options.rate), "false", f"{self.manager}:8081", jar])

    def victim(self):
        used = [t["id"] for t in self.rest("/taskmanagers")["taskmanagers"] if t["freeSlots"] == 0]
        return self.managers[used[0]].pid, "a TaskManager (of three at work and one to spare)"

    def ended(self):
        return self.client.poll() is not None


class FlinkTunedRun(FlinkRun):
    """Looks for dead TaskManagers twice a second and not every 10 s."""

    heartbeat = {"heartbeat.interval": "500", "heartbeat.timeout": "3000"}


class SparkRun(Run):
    growth, by_batch = BatchGrowth, True

    def start(self):
        host = f"{self.at.subnet}.71"
        env = dict(os.environ, JAVA_HOME=self.at.java(), PEER_HEAP=HEAP, PEER_ADDRESS=host, SPARK_LOCAL_IP=host, PYSPARK_PYTHON=f"{self.at.peers}/venv/bin/python")
        home = subprocess.run([env["PYSPARK_PYTHON"], "-c", "import pyspark, os; print(os.path.dirname(pyspark.__file__))"], capture_output=True, text=True, check=True).stdout.strip()
        env["SPARK_HOME"] = home
        spark = [f"{home}/bin/spark-class", "org.apache.spark.deploy"]
        self.spawn("master", [spark[0], f"{spark[1]}.master.Master", "--host", host, "--port", "7077", "--webui-port", "0"], env)
        self.workers = [
            self.spawn(f"worker{i}", [spark[0], f"{spark[1]}.worker.Worker", "--host", f"{self.at.subnet}.{72 + i}", "--cores", "1", "--memory", "1200m",
                                      "--work-dir", f"{self.folder}/work{i}", "--webui-port", "0", f"spark://{host}:7077"], dict(env, SPARK_LOCAL_IP=f"{self.at.subnet}.{72 + i}"))
            for i in range(3)
        ]
        self.input = f"{self.folder}/input"
        os.makedirs(self.input)
        self.client = self.spawn("client", [env["PYSPARK_PYTHON"], str(pathlib.Path(__file__).with_name("spark") / "spark_peer.py"),
                                            JOB, self.input, self.folder, "exchange", "3", "1", f"spark://{host}:7077"], env)
        self.feeder = threading.Thread(target=self.feed, daemon=True)
        self.feeder.start()

    def feed(self):
        """A file each second, as lines come in at the rate. Starts when Spark has read the first, which is late."""
        parts = sorted(pathlib.Path(KillData(self.at, self.options).parts(JOB)).iterdir())
        began = None
        for i, part in enumerate(parts):
            shutil.copyfile(part, f"{self.input}/.{part.name}")
            os.rename(f"{self.input}/.{part.name}", f"{self.input}/{part.name}")
            if i == 0:
                while not pathlib.Path(self.out).exists() and not self.ended():
                    time.sleep(0.1)
                began = time.time()
            time.sleep(max(0.0, began + i + 1 - time.time()))
        pathlib.Path(self.folder, "fed").touch()

    def victim(self):
        executors = [p for worker in self.workers for p in family([worker.pid], ()) if "CoarseGrainedExecutorBackend" in command_of(p)]
        if not executors:
            raise Failed("no executor runs")
        return executors[0], "an executor (of three, one in each worker)"

    def ended(self):
        return self.client.poll() is not None


class KillData(Setting):
    """The part's data in the places where the systems look."""

    def __init__(self, at, options):
        super().__init__(at.out, at.peers, at.bin, at.subnet)
        self.data = f"{at.out}/kill/{options.rate}-{options.seconds}"

    def file(self, _job):
        return f"{self.data}/data"

    def parts(self, _job):
        return f"{self.data}/parts"

    def make(self, source, options):
        """A file with the rate's lines for each second, all in one, and the oracle's counts."""
        if os.path.exists(f"{self.data}/done"):
            return
        shutil.rmtree(self.data, ignore_errors=True)
        os.makedirs(f"{self.data}/parts")
        seen, want = {}, []
        with open(source) as lines, open(f"{self.data}/data", "w") as whole:
            for second in range(options.seconds):
                with open(f"{self.data}/parts/part{second:03}", "w") as part:
                    for _, line in zip(range(options.rate), lines):
                        whole.write(line)
                        part.write(line)
                        columns = line.split("|")
                        if columns[8] == "R":
                            seen[columns[2]] = seen.get(columns[2], 0) + 1
                            want.append(f"{columns[2]}\t{seen[columns[2]]}")
        pathlib.Path(self.data, "want").write_text("".join(f"{w}\n" for w in sorted(want)))
        pathlib.Path(self.data, "done").touch()


RUNS = {"rainstorm": RainStormRun, "flink": FlinkRun, "flink-tuned": FlinkTunedRun, "spark-exchange": SparkRun, "renoir": RenoirRun}


def once(at, data, name, number, options):
    record = {"part": "kill", "system": name, "experiment": JOB, "trial": number, "rate": options.rate, "settled_seconds": settle(), "load": os.getloadavg()[0], "checked": False, "killed": "nothing"}
    run = RUNS[name](at, options)
    killed = None
    try:
        run.start()
        began, first = time.time(), None
        while not run.ended():
            run.look()
            if first is None and run.grown.samples[-1][1] > 0:
                first = time.time()
            if first and killed is None and time.time() - first > options.seconds * 0.4:
                pid, record["killed"] = run.victim()
                os.kill(pid, signal.SIGKILL)
                killed = time.time()
            if time.time() - began > PATIENCE + options.seconds:
                record["error"] = "no end"
                break
            time.sleep(0.02)
        for _ in range(3):
            run.look()
            time.sleep(0.1)
        if killed is None:
            raise Failed(f"ended before its time: {tail(f'{run.folder}/client.log')}{tail(f'{run.folder}/leader.log')}")
        want = f"{data.data}/want"
        record["checked"], record["lines_out"] = check(run.output(), want, run.by_batch, at.out)
        wanted = int(subprocess.run(["wc", "-l", want], capture_output=True, text=True).stdout.split()[0])
        record["lines_wanted"] = wanted
        zero = [(t, n) for t, n in run.grown.samples]
        # The schedule is that of before the kill: what was out by then, and the rate at which more is due.
        at_kill = next((n for t, n in reversed(zero) if t <= killed), 0)
        record |= analyse([(t, n - at_kill) for t, n in zero], killed, wanted / options.seconds)
        if run.what_next():
            record["error"] = run.what_next()
        if not record["checked"] and record["lines_out"] < wanted:
            record["behind_seconds"] = None
    except (Failed, OSError, StopIteration, ValueError, subprocess.SubprocessError) as error:
        record["error"] = f"{type(error).__name__}: {error}"
    finally:
        run.close()
    if not options.keep:
        shutil.rmtree(run.folder, ignore_errors=True)
    note(options.results, clean(record))
    print("    " + json.dumps({k: v for k, v in clean(record).items() if k != "progress"}), flush=True)


def main():
    parse = argparse.ArgumentParser()
    for name in ("out", "peers", "bin", "subnet", "results"):
        parse.add_argument(f"--{name}", required=True)
    parse.add_argument("--systems", type=str.split, default=list(RUNS))
    parse.add_argument("--seconds", type=int, default=40)
    parse.add_argument("--rate", type=int, default=50_000)
    parse.add_argument("--runs", type=int, default=3)
    parse.add_argument("--keep", action="store_true", help="keep the folders with the logs")
    options = parse.parse_args()
    # So that what was started is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    at = Setting(options.out, options.peers, options.bin, options.subnet)
    data = KillData(at, options)
    data.make(f"{at.out}/data/csv", options)
    if "rainstorm" in options.systems:
        rainstorm = SYSTEMS["rainstorm"](at)
        rainstorm.hydfs("create", data.file(JOB), "kill/data")
    for number in range(1, options.runs + 1):
        for name in options.systems:
            if name in RUNS:
                once(at, data, name, number, options)
    if "rainstorm" in options.systems:
        rainstorm.hydfs("rm", "kill/data")


if __name__ == "__main__":
    sys.exit(main())
