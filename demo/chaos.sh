#!/usr/bin/env bash
# Random jobs under random faults (kill -9 of tasks, operators, daemons and nodes, SIGSTOP) on a cluster of its own, every
# output compared with awk's. `demo/chaos.sh --runs 300` takes about twenty minutes; `demo/chaos.sh --help` tells the rest.
set -euo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=demo/procs.sh
. "$ROOT/demo/procs.sh"

need_cc
need_cargo
need_ssh
need_python
need_programs
cd "$ROOT"
cargo build --quiet --release -p system-tests --bin chaos

# The cluster is in here. Interrupted, the runner does not take it down itself.
SCRATCH=$(realpath "$(mktemp -d "${TMPDIR:-/tmp}/rainstorm-chaos.XXXXXX")")
CHAOS=''
cleanup() {
    trap '' INT TERM
    local cluster
    if [ -n "$CHAOS" ]; then
        kill -TERM "$CHAOS" 2>/dev/null || true
        wait "$CHAOS" 2>/dev/null || true
    fi
    while IFS= read -r -d '' cluster; do
        end_cluster "$(dirname "$cluster")" || true
    done < <(find "$SCRATCH" -name cluster.toml -print0)
    rm -rf "$SCRATCH"
}
trap cleanup EXIT
trap 'trap "" INT TERM; exit 130' INT TERM

TMPDIR=$SCRATCH RAINSTORM_BIN=$BIN "${CARGO_TARGET_DIR:-$ROOT/target}/release/chaos" --evidence "$RUN/chaos" "$@" &
CHAOS=$!
code=0
wait "$CHAOS" || code=$?
CHAOS=''
exit "$code"
