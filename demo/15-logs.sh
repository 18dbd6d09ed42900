#!/usr/bin/env bash
# A kill, as the logs tell it: demo/logs.sh
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/logs.sh" "$@"
