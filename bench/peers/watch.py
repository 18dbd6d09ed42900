"""What a run is watched by: the memory of all its processes, the first output that a reader could see, the disk at rest."""
import os
import threading
import time

PAGE = os.sysconf("SC_PAGE_SIZE")


def stat_of(pid):
    """The parent of a process, or None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rsplit(") ", 1)[1].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def family(roots, marks):
    """The processes below `roots`, and those whose command line holds one of `marks`, with all below them."""
    parents = {int(p): stat_of(p) for p in os.listdir("/proc") if p.isdigit()}
    mine = {r for r in roots if r in parents}
    if marks:
        mine |= {p for p in parents if p != os.getpid() and any(m in command_of(p) for m in marks)}
    grown = True
    while grown:
        below = {p for p, parent in parents.items() if parent in mine} - mine
        grown = bool(below)
        mine |= below
    return mine


def resident(pid):
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError, ValueError):
        return 0


class Watch(threading.Thread):
    """Samples while it runs: `peak` is the greatest sum of resident memory, `seen` the time of the first output."""

    def __init__(self, roots, marks=(), visible=None):
        super().__init__(daemon=True)
        self.roots, self.marks, self.visible = roots, marks, visible
        self.peak, self.seen = 0, None
        self.over = threading.Event()

    def run(self):
        members, looked = set(), 0.0
        while not self.over.is_set():
            now = time.time()
            # A look at all processes costs milliseconds; new ones are seldom.
            if now - looked > 0.3:
                members, looked = family(self.roots, self.marks), now
            self.peak = max(self.peak, sum(map(resident, members)))
            if self.visible and self.seen is None and self.visible():
                self.seen = time.time()
            self.over.wait(0.02 if self.visible and self.seen is None else 0.1)

    def stop(self):
        self.over.set()
        self.join()


def settle(limit=60):
    """Lets the disk come to rest: after gigabytes written the next job with much output takes twice as long. Seconds waited."""
    began = time.time()
    os.sync()
    while time.time() - began < limit:
        with open("/proc/meminfo") as file:
            waiting = sum(int(line.split()[1]) for line in file if line.startswith(("Dirty:", "Writeback:")))
        if waiting < 20_000:
            break
        time.sleep(0.2)
    return time.time() - began
