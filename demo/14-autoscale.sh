#!/usr/bin/env bash
# In short: stages grow and shrink with their input. In full: demo/autoscale.sh
set -euo pipefail
if [ $# -eq 0 ]; then set -- 1 7; fi
exec "$(dirname "${BASH_SOURCE[0]}")/autoscale.sh" "$@"
