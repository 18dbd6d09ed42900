#!/usr/bin/env bash
# Makes docs/report/report.pdf from the kept figures; with a file of trials (bench/compare.sh leaves trials.jsonl) it keeps these first.
set -euo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../demo/lib.sh"
PYTHON=${RAINSTORM_PEERS:-$HOME/.cache/rainstorm-peers}/venv/bin/python
"$PYTHON" -c 'import typst' 2>/dev/null || fail "typst is missing; type: bench/peers/setup.sh"
PYTHONDONTWRITEBYTECODE=1 exec "$PYTHON" "$ROOT/docs/report/make.py" "$@"
