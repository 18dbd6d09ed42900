# The byte count on lo is not validated yet: it showed about half of what memberd itself counts.
"""The measuring part of membership.sh: starts the daemons, kills, reads their logs, counts bytes on lo.

Times are taken from this process's clock at the kill and at the moment a log line is seen (logs are polled every 5 ms), so
that the two programs are measured alike. Ends only what it has started.
"""

import os
import secrets
import select
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time

memberd, work, nodes, trials, protocol, subnet, with_serf, quiet, steady, loss = sys.argv[1:]
nodes, trials, quiet, steady = int(nodes), int(trials), float(quiet), float(steady)
names = [f"n{i + 1}" for i in range(nodes)]
addr = {name: f"{subnet}.{11 + i}" for i, name in enumerate(names)}
BOUND = 30.0


class Sniffer(threading.Thread):
    """Counts the bytes of IP packets on lo by source address, those of this bench's subnet only."""

    def __init__(self):
        super().__init__(daemon=True)
        self.bytes = {}
        self.stopped = False
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind(("lo", 0x0800))

    def run(self):
        ours = set(addr.values())
        while not self.stopped:
            ready, _, _ = select.select([self.socket], [], [], 0.2)
            if not ready:
                continue
            packet, meta = self.socket.recvfrom(65536)
            if meta[2] == socket.PACKET_OUTGOING:  # each packet on lo is seen going out and coming in
                continue
            source = socket.inet_ntoa(packet[12:16])
            # Whoever dials TCP does so from 127.0.0.1.
            if source in ours or socket.inet_ntoa(packet[16:20]) in ours:
                length = struct.unpack("!H", packet[2:4])[0]
                self.bytes[source] = self.bytes.get(source, 0) + length


class Memberd:
    title = "memberd"

    def __init__(self):
        self.folder = os.path.join(work, "memberd")
        os.makedirs(self.folder)
        secret = os.path.join(self.folder, "secret")
        with open(os.open(secret, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
            f.write(secrets.token_hex(32))
        self.cluster = os.path.join(self.folder, "cluster.toml")
        with open(self.cluster, "w") as f:
            f.write('secret_file = "secret"\n[membership]\nprotocol = "%s"\ndrop_rate = %s\n' % (protocol, loss))
            for name in names:
                f.write(f'[[node]]\nname = "{name}"\naddr = "{addr[name]}"\n')

    def start(self, name):
        return subprocess.Popen([memberd, "--cluster", self.cluster, "--node", name],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def log(self, name):
        return os.path.join(self.folder, name, "log", "memberd.log")

    def suspects(self, line, victim):
        return f" SUSPECT node={victim} " in line

    def fails(self, line, victim):
        return f" FAIL node={victim} " in line

    def joins(self, line, victim):
        return f" JOIN node={victim} " in line or f" ALIVE node={victim} " in line


class Serf:
    title = "serf"

    def __init__(self):
        self.folder = os.path.join(work, "serf")
        os.makedirs(self.folder)
        self.key = secrets.token_bytes(32)

    def start(self, name):
        import base64
        config = os.path.join(self.folder, f"{name}.json")
        with open(os.open(config, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as f:
            # Authenticated, as memberd is; serf has no such thing without encryption.
            f.write('{"encrypt_key": "%s"}' % base64.b64encode(self.key).decode())
        out = open(self.log(name), "ab")
        return subprocess.Popen(["serf", "agent", f"-node={name}", f"-bind={addr[name]}:7946",
                                 f"-rpc-addr={addr[name]}:7373", f"-retry-join={addr[names[0]]}:7946",
                                 "-retry-interval=1s", f"-retry-join={addr[names[1]]}:7946",
                                 "-log-level=debug", f"-config-file={config}"],
                                stdout=out, stderr=subprocess.STDOUT)

    def log(self, name):
        return os.path.join(self.folder, f"{name}.log")

    def suspects(self, line, victim):
        return f"Suspect {victim} has failed" in line or f"Marking {victim} as failed, suspect" in line

    def fails(self, line, victim):
        return f"EventMemberFailed: {victim} " in line

    def joins(self, line, victim):
        return f"EventMemberJoin: {victim} " in line


class Watch:
    """Reads what has been added to the logs since the last look."""

    def __init__(self, program):
        self.program = program
        self.at = {name: 0 for name in names}
        self.rest = {name: b"" for name in names}

    def lines(self, name):
        try:
            with open(self.program.log(name), "rb") as f:
                f.seek(self.at[name])
                data = f.read()
        except FileNotFoundError:
            return []
        self.at[name] += len(data)
        *whole, self.rest[name] = (self.rest[name] + data).split(b"\n")
        return [line.decode(errors="replace") + " " for line in whole]

    def until_all(self, observers, wanted, bound, also=None):
        """When each observer's log first had a wanted line, and the first line of `also` anywhere."""
        seen, first, end = {}, None, time.monotonic() + bound
        while len(seen) < len(observers) and time.monotonic() < end:
            for name in observers:
                for line in self.lines(name):
                    if also and first is None and also(line):
                        first = time.monotonic()
                    if name not in seen and wanted(line):
                        seen[name] = time.monotonic()
            time.sleep(0.005)
        return seen, first


def start_all(program, watch, running):
    for name in names:
        running[name] = program.start(name)
        time.sleep(0.1)
    known = {name: set() for name in names}
    end = time.monotonic() + 60
    while time.monotonic() < end and any(len(k) < nodes - 1 for k in known.values()):
        for name in names:
            for line in watch.lines(name):
                known[name] |= {other for other in names if other != name and program.joins(line, other)}
        time.sleep(0.05)
    if any(len(k) < nodes - 1 for k in known.values()):
        raise SystemExit(f"{program.title}: the {nodes} nodes did not find each other within 60 s")
    time.sleep(5)


def end_all(running):
    for process in running.values():
        process.kill()
    for process in running.values():
        process.wait()


def keep_still(program):
    """Nobody is killed: how often is somebody suspected, or called failed?"""
    running, watch = {}, Watch(program)
    try:
        start_all(program, watch, running)
        for name in names:
            watch.lines(name)
        suspected, failed, end = 0, 0, time.monotonic() + 60 * steady
        while time.monotonic() < end:
            time.sleep(0.2)
            for name in names:
                for line in watch.lines(name):
                    suspected += any(program.suspects(line, other) for other in names)
                    failed += any(program.fails(line, other) for other in names)
        print(f"{nodes} nodes for {steady:g} minutes, {float(loss):.0%} of all datagrams lost: {suspected} views of a suspicion, "
              f"{failed} of a failure; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    finally:
        end_all(running)


def measure(program):
    running, watch = {}, Watch(program)
    sniffer = None
    try:
        start_all(program, watch, running)
        traffic = None
        if os.geteuid() == 0:
            sniffer = Sniffer()
            sniffer.start()
            time.sleep(quiet)
            sniffer.stopped = True
            sniffer.join()
            traffic = sum(sniffer.bytes.values()) / quiet / nodes
        suspected, failed, missed = [], [], 0
        for trial in range(trials):
            victim = names[2 + trial % (nodes - 2)]
            others = [name for name in names if name != victim]
            for name in names:
                watch.lines(name)
            killed = time.monotonic()
            running[victim].send_signal(signal.SIGKILL)
            running.pop(victim).wait()
            seen, first = watch.until_all(others, lambda line: program.fails(line, victim), BOUND,
                                          lambda line: program.suspects(line, victim))
            if len(seen) < len(others):
                missed += 1
            else:
                failed.append(max(seen.values()) - killed)
                suspected.append((first or max(seen.values())) - killed)
            watch.lines(victim)
            running[victim] = program.start(victim)
            watch.until_all(others, lambda line: program.joins(line, victim), BOUND)
            time.sleep(1.0 + (trial * 0.137) % 1.0)  # not in step with anybody's periods
        return suspected, failed, missed, traffic
    finally:
        end_all(running)


def row(title, result):
    suspected, failed, missed, traffic = result
    of = lambda values: f"{statistics.median(values):.2f} / {max(values):.2f}" if values else "-"
    cost = f"{traffic:.0f}" if traffic is not None else "(needs root)"
    print(f"| {title} | {of(suspected)} | {of(failed)} | {missed} of {trials} | {cost} |", flush=True)


try:
    if steady:
        keep_still(Memberd())
        sys.exit()
    load = os.getloadavg()[0]
    print(f"{nodes} nodes, {trials} kills each, load {load:.1f} on {os.cpu_count()} cores")
    print("| | first suspected, s (median / worst) | failed at all, s (median / worst) | missed | bytes/s and node on the wire |")
    print("|---|---|---|---|---|", flush=True)
    row(f"memberd, {protocol}", measure(Memberd()))
    if with_serf == "1":
        if shutil.which("serf"):
            row("serf, LAN defaults", measure(Serf()))
        else:
            print("serf is not installed: apt-get install serf; skipped", file=sys.stderr)
finally:
    shutil.rmtree(work, ignore_errors=True)
