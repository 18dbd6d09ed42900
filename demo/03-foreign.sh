#!/usr/bin/env bash
# Operators in any language: an awk filter and a Python transform over the text protocol, shipped to the nodes by
# themselves. They make an index of the functions that the code declares. Checked against grep.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

need_cluster
need_python
begin 'demo/operators/declares.sh (awk, a filter), then demo/operators/functions.py (Python, a transform)'
dataset text 8
load "$DATA"
run_job --console none 2 3 "filter:$ROOT/demo/operators/declares.sh" '' "transform:$ROOT/demo/operators/functions.py" '' "$SOURCE" "$DEST" true false
say "$(speed)"

sed 's/\r$//' "$DATA" | grep -a -noE '(^|[^A-Za-z0-9_])fn [A-Za-z_][A-Za-z0-9_]*' |
    sed -E "s|^([0-9]+):.*fn (.*)|\2\t$FILE:\1|" >"$WORK/expected"
same 'index against grep' "$WORK/expected" "$GOT"
say 'a few of them:'
sed -n 1,3p "$GOT" | sed 's/^/    /'
good "shown: two scripts of ten lines, in awk and Python, as operators of an exactly-once job: $(figure lines_out) tuples, all right"
