#!/usr/bin/env bash
# Jobs without end under kills, on a cluster of its own: two hours, or `--minutes M`. `--speedup X` makes batches smaller, so that the
# tasks' logs come to what they would in a much longer time. Every line of output is judged; the verdict is on each trend.
# `bench/soak.sh --help` tells the rest. Plots go to bench/out/soak-*.svg.
set -euo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../demo/lib.sh"
# shellcheck source=demo/procs.sh
. "$ROOT/demo/procs.sh"

need_python
OUT=$ROOT/bench/out
TABLE=$OUT/soak.tsv
mkdir -p "$OUT"
code=0
# It exits with the program's code.
(run_program soak --table "$TABLE" --subnet "${BENCH_SUBNET:-127.0.46}" "$@") || code=$?

# draw NAME TITLE Y FIGURE...: these figures of the table over minutes.
draw() {
    local name=$1 title=$2 y=$3
    shift 3
    local figures
    figures=$(printf '%s\n' "$@")
    awk -F'\t' -v OFS='\t' -v figures="$figures" '
        BEGIN { n = split(figures, list, "\n"); for (i = 1; i <= n; i++) wanted[list[i]] = 1 }
        $2 in wanted { print $2, $1 / 60, $3 }' "$TABLE" |
        python3 "$ROOT/bench/plot.py" "$OUT/soak-$name.svg" "$title" "minutes" "$y"
}
if [ -s "$TABLE" ]; then
    draw kept "What is kept, before copies" "MiB" "kept log MiB" "kept snap MiB" "kept journal MiB"
    draw memory "Resident memory of the largest process" "MiB" "memberd MiB" "hydfsd MiB" "leader MiB" "worker MiB"
    draw recovery "From a kill to new output, median" "ms" "recovery ms" "replay ms"
    draw latency "From appended to read, through HyDFS" "ms" "latency p50 ms" "latency p99 ms"
fi
exit "$code"
