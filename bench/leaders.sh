#!/usr/bin/env bash
# From `kill -9` of a follow job's leader to new output, with nobody's hand: the leader 50 times, then its node 10 times;
# `--kills N --nodes M` for others. The output is compared with awk's.
set -euo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../demo/lib.sh"
# shellcheck source=demo/procs.sh
. "$ROOT/demo/procs.sh"

need_cargo
need_ssh
need_programs
cd "$ROOT"
cargo build --quiet --release --workspace --bin leaders

run_in_scratch leaders "${CARGO_TARGET_DIR:-$ROOT/target}/release/leaders" --subnet "${BENCH_SUBNET:-127.0.43}" "$@"
