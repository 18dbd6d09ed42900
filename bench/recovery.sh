#!/usr/bin/env bash
# From `kill -9` to new output, over SSH, on clusters of its own: 300 tasks, then 20 nodes; `--kills N --nodes N` for others.
# Every output is compared with awk's.
set -euo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../demo/lib.sh"
# shellcheck source=demo/procs.sh
. "$ROOT/demo/procs.sh"

need_cargo
need_ssh
need_programs
cd "$ROOT"
cargo build --quiet --release -p system-tests --bin recovery

# The clusters are in here. Interrupted, the program does not take them down itself.
SCRATCH=$(realpath "$(mktemp -d "${TMPDIR:-/tmp}/rainstorm-recovery.XXXXXX")")
MEASURE=''
cleanup() {
    trap '' INT TERM
    local cluster
    if [ -n "$MEASURE" ]; then
        kill -TERM "$MEASURE" 2>/dev/null || true
        wait "$MEASURE" 2>/dev/null || true
    fi
    while IFS= read -r -d '' cluster; do
        end_cluster "$(dirname "$cluster")" || true
    done < <(find "$SCRATCH" -name cluster.toml -print0)
    rm -rf "$SCRATCH"
}
trap cleanup EXIT
trap 'trap "" INT TERM; exit 130' INT TERM

TMPDIR=$SCRATCH RAINSTORM_BIN=$BIN "${CARGO_TARGET_DIR:-$ROOT/target}/release/recovery" --subnet "${BENCH_SUBNET:-127.0.42}" "$@" &
MEASURE=$!
code=0
wait "$MEASURE" || code=$?
MEASURE=''
exit "$code"
