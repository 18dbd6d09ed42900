#!/usr/bin/env bash
# The rescale pause: the longest gap in the job's output around a change of stage 1's tasks, as the leader prints it.
#   bench/rescale.sh [ROUNDS [RATE]]     on the running local cluster; ups and downs (default 3), tuples/s (default 20000)
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/../demo/jobs.sh"

ROUNDS=${1:-3} RATE=${2:-20000}
need_cluster
need_python
begin "exactly once, one task per stage, $RATE tuples/s and a third of it in turn, $ROUNDS times"
seq $((RATE * (ROUNDS * 16 + 30))) >"$WORK/input"
SOURCE=data/$JOB
rs hydfs create "$WORK/input" "$SOURCE/in" >&2 || fail 'cannot load the lines into HyDFS'
rm -f "$WORK/input"

# The time at which each piece of output came, in microseconds.
WATCH='
import os, sys, time
while os.read(0, 1 << 20):
    print(time.time_ns() // 1000)
'
rs leader --node n1 --job "$JOB" --max-tasks 2 --progress never 2 1 identity '' identity '' "$SOURCE" "$DEST" true true \
    $((RATE / 3)) $((RATE / 2)) $((RATE * 4 / 5)) 2>"$WORK/err" | python3 -c "$WATCH" >"$WORK/times" &
LEADER=$!
deadline=$((SECONDS + 40))
until [ "$(wc -l <"$WORK/times")" -gt 20 ]; do
    [ "$SECONDS" -lt "$deadline" ] || fail "no output: $(cat "$WORK/err")"
    sleep 0.1
done
for ((i = 0; i < ROUNDS; i++)); do
    rs rainstormctl set_rate "$JOB" "$RATE" >/dev/null
    sleep 8
    rs rainstormctl set_rate "$JOB" $((RATE / 3)) >/dev/null
    sleep 8
done
# The figures are there: the rest of the input is not waited for.
leader_pid() { rs rainstormctl jobs --json | python3 -c 'import json, sys; [print(j["pid"]) for j in json.load(sys.stdin) if j["job"] == sys.argv[1]]' "$JOB"; }
kill -TERM "$(leader_pid)" 2>/dev/null || true
wait "$LEADER" || true
LEADER=''
grep -F "job=$JOB " "$RUN/n1/log/leader.log" | grep -E 'SCALE_(UP|DOWN)|SCALED' >"$WORK/changes" || true
python3 - "$WORK/times" "$WORK/changes" <<'PY'
import datetime, sys
times = [int(t) / 1e6 for t in open(sys.argv[1])]
worst, seen = 0, 0
for line in open(sys.argv[2]):
    words = line.split()
    at = datetime.datetime.fromisoformat(words[0].replace("Z", "+00:00")).timestamp()
    event = next(w for w in words if w.startswith("SCALE"))
    if event == "SCALED":
        continue
    near = [t for t in times if at - 0.5 <= t <= at + 3]
    gap = max((b - a for a, b in zip(near, near[1:])), default=3.5)
    worst, seen = max(worst, gap), seen + 1
    print(f"{event}: longest gap in the output from 0.5 s before to 3 s after: {gap * 1000:.0f} ms")
print(f"rescale pause: {worst * 1000:.0f} ms at most over {seen} changes")
sys.exit(seen == 0)
PY
rs hydfs rm "$SOURCE/in" >/dev/null 2>&1 || true
