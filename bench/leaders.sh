#!/usr/bin/env bash
# From `kill -9` of a follow job's leader to new output, with nobody's hand: the leader 50 times, then its node 10 times;
# `--kills N --nodes M` for others. The output is compared with awk's.
set -euo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../demo/lib.sh"
# shellcheck source=demo/procs.sh
. "$ROOT/demo/procs.sh"

run_program leaders --subnet "${BENCH_SUBNET:-127.0.43}" "$@"
