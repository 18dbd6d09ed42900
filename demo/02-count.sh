#!/usr/bin/env bash
# Aggregation: a running count of lines by their first word, over three tasks that share the keys. Checked against awk.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

need_cluster
begin 'lines that say static, counted by their first word while they come'
dataset text 24
load "$DATA"
run_job --console none 2 3 grep '--key word:0 static' count '' "$SOURCE" "$DEST" true false
say "$(speed)"

# Every update is there, so the output is each key with 1, 2, ... up to its count, whatever the order was.
counted_by_first_word "$DATA" >"$WORK/expected"
same 'updates against awk' "$WORK/expected" "$GOT"
say 'the five most frequent first words:'
awk -F'\t' '$2 > n[$1] { n[$1] = $2 } END { for (k in n) printf "%8d  %s\n", n[k], k }' "$GOT" | sort -k1,1nr -k2 | sed -n 1,5p
good "shown: a keyed running count over 3 tasks, $(cut -f1 "$GOT" | sort -u | wc -l) keys, each counted 1, 2, 3, ... without a gap or a repeat"
