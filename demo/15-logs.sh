#!/usr/bin/env bash
# A scale-up and a kill, as the logs tell them: demo/logs.sh
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/logs.sh" "$@"
