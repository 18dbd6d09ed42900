#!/usr/bin/env bash
# Columns: of TPC-H line items, those shipped by air, and of these three columns. Exactly-once; checked against awk.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

need_cluster
begin 'filter: ship mode (column 14) is AIR; project: columns 0, 1 and 5'
dataset csv 24
load "$DATA"
run_job --console none 2 3 filter "-d '|' -c 14 -eq AIR" project "-d '|' -c 0,1,5" "$SOURCE" "$DEST" true false
say "$(speed)"

awk -F'|' -v file="$FILE" '$15 == "AIR" { print file ":" NR "\t" $1 "|" $2 "|" $6 }' "$DATA" >"$WORK/expected"
same 'output against awk' "$WORK/expected" "$GOT"
good "shown: a filter and a projection on delimited columns give what awk gives, $(figure lines_out) of $(figure lines_in) lines, each once"
