#!/usr/bin/env bash
# Random jobs under random faults (kill -9 of tasks, operators, daemons and nodes, SIGSTOP) on a cluster of its own, every
# output compared with awk's. `demo/chaos.sh --runs 300` takes about twenty minutes; `demo/chaos.sh --help` tells the rest.
set -euo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=demo/procs.sh
. "$ROOT/demo/procs.sh"

need_cc
need_python
run_program chaos --evidence "$RUN/chaos" "$@"
