"""Compares an output with the oracle's: the same lines, as often, in any order."""
import os
import subprocess

SORT = ["sort", "-S", "1G", "--parallel=2"]
ENV = dict(os.environ, LC_ALL="C")


def sorted_into(files, target):
    """The lines of all files, sorted. The names go in by a pipe: there may be thousands."""
    names = "\0".join(files).encode()
    with open(target, "wb") as out:
        cat = subprocess.Popen(["xargs", "-0", "-r", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        sort = subprocess.Popen(SORT, stdin=cat.stdout, stdout=out, env=ENV)
        cat.stdout.close()
        cat.stdin.write(names)
        cat.stdin.close()
        return cat.wait() == 0 and sort.wait() == 0


def counts(path):
    """The greatest count of each key, and whether no line is there twice."""
    last, before, once = {}, None, True
    with open(path, "rb") as file:
        for line in file:
            key, _, n = line.rstrip(b"\n").rpartition(b"\t")
            last[key] = max(last.get(key, 0), int(n))
            once, before = once and line != before, line
    return last, once


def check(files, want, by_batch, scratch):
    """Whether the output is right, and its number of lines."""
    got = f"{scratch}/sorted"
    if not sorted_into(files, got):
        return False, 0
    lines = int(subprocess.run(["wc", "-l", got], capture_output=True, text=True).stdout.split()[0])
    if by_batch:
        # A row per key and batch: each must be a count that the key has had, none twice, and the last ones the oracle's last.
        mine, once = counts(got)
        alien = subprocess.run(["comm", "-23", got, want], capture_output=True, env=ENV).stdout
        right = once and not alien and mine == counts(want)[0]
    else:
        right = subprocess.run(["cmp", "-s", got, want]).returncode == 0
    os.remove(got)
    return right and lines > 0, lines
