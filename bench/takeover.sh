#!/usr/bin/env bash
# How long appends stand still when a storage daemon is killed, and when it is started again, with 0, 1,000 and 10,000 files stored.
# usage: bench/takeover.sh [FILES...]     (cargo build --release -p memberd -p hydfsd --bins --example pause)
# Environment: as for demo/cluster.sh; PAUSE: the measuring program (default target/release/examples/pause).
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export RAINSTORM_RUN=${RAINSTORM_RUN:-$ROOT/run-takeover} RAINSTORM_SUBNET=${RAINSTORM_SUBNET:-127.0.9}
PAUSE=${PAUSE:-$ROOT/target/release/examples/pause}
COUNTS=("$@")
[ $# -gt 0 ] || COUNTS=(0 1000 10000)
TRIALS=${TRIALS:-3}
trap '"$ROOT/demo/cluster.sh" down >/dev/null' EXIT

for files in "${COUNTS[@]}"; do
    "$ROOT/demo/cluster.sh" down >/dev/null
    "$ROOT/demo/cluster.sh" up 5 --fresh >/dev/null
    export RAINSTORM_CLUSTER=$RAINSTORM_RUN/cluster.toml
    "$PAUSE" --files "$files" --seconds 1 >/dev/null
    for ((trial = 1; trial <= TRIALS; trial++)); do
        "$PAUSE" --seconds 10 >"$RAINSTORM_RUN/pause.out" &
        pid=$!
        sleep 2
        kill -9 "$(cat "$RAINSTORM_RUN/n3/hydfsd.pid")"
        sleep 3
        "$ROOT/demo/cluster.sh" start-node n3 >/dev/null
        wait "$pid"
        # What begins before 4 s is the kill's, the rest the start's.
        awk -v files="$files" -v trial="$trial" '/^pause/ { split($3, at, "="); split($4, ms, "="); k = at[2] < 4 ? 0 : 1; if (ms[2] > worst[k]) worst[k] = ms[2] }
            /^total/ { split($2, n, "=") }
            END { printf "files=%d trial=%d killed_ms=%d started_ms=%d appends=%d\n", files, trial, worst[0], worst[1], n[2] }' "$RAINSTORM_RUN/pause.out"
    done
done
