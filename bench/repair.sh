#!/usr/bin/env bash
# What rebuilding lost copies costs the appends that go on meanwhile: appends in 6 s before, while a node of five rebuilds its empty disk, and after.
# usage: bench/repair.sh [MB [FILES]]     (cargo build --release -p memberd -p hydfsd --bins --example pause)
# Environment: as for demo/cluster.sh; PAUSE: the measuring program (default target/release/examples/pause).
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export RAINSTORM_RUN=${RAINSTORM_RUN:-$ROOT/run-repair} RAINSTORM_SUBNET=${RAINSTORM_SUBNET:-127.0.9}
export RAINSTORM_CLUSTER=$RAINSTORM_RUN/cluster.toml
PAUSE=${PAUSE:-$ROOT/target/release/examples/pause}
HYDFS=${RAINSTORM_BIN:-$ROOT/target/release}/hydfs
MB=${1:-800} FILES=${2:-8}
trap '"$ROOT/demo/cluster.sh" down >/dev/null' EXIT

appends() { printf '%s: ' "$1" && "$PAUSE" --seconds 6 --bytes 4096 --window 16 | tail -1; }

"$ROOT/demo/cluster.sh" up 5 --fresh >/dev/null
for ((i = 1; i <= FILES; i++)); do head -c $((MB * 1000000 / FILES)) /dev/urandom | "$HYDFS" create - "big/$i"; done
appends before
kill -9 "$(cat "$RAINSTORM_RUN/n3/hydfsd.pid")"
# Others take its place; then it comes back with nothing.
sleep 1
rm -rf "$RAINSTORM_RUN/n3/data/hydfs"
"$ROOT/demo/cluster.sh" start-node n3 >/dev/null
appends meanwhile
sleep 4
grep -h REPAIR_DONE "$RAINSTORM_RUN"/n*/log/hydfsd.log
appends after
