#!/usr/bin/env bash
# In short: the rates of every stage are the INPUT_RATE. In full: demo/rates.sh
set -euo pipefail
if [ $# -eq 0 ]; then set -- 14 10000; fi
exec "$(dirname "${BASH_SOURCE[0]}")/rates.sh" "$@"
