#!/usr/bin/env bash
# From `kill -9` to new output, over SSH, on clusters of its own: 300 tasks, then 20 nodes; `--kills N --nodes N` for others.
# Every output is compared with awk's.
set -euo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../demo/lib.sh"
# shellcheck source=demo/procs.sh
. "$ROOT/demo/procs.sh"

run_program recovery --subnet "${BENCH_SUBNET:-127.0.42}" "$@"
