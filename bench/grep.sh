#!/usr/bin/env bash
# How long `rainstormctl grep` takes over ten machines with 60 MB of logs each: over real SSH, a rare line, a common one, and a
# count. The machines are one, so it reads all of it with its own cores. What is found is compared with what was put in.
#   bench/grep.sh [NODES [MB [RUNS]]]     (10, 60, 5)
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

NODES=${1:-10} MB=${2:-60} RUNS=${3:-5}
OUT=$ROOT/bench/out
export RAINSTORM_RUN=$OUT/run RAINSTORM_SUBNET=${BENCH_SUBNET:-127.0.41}
export RAINSTORM_CLUSTER=$OUT/run/cluster.toml
mkdir -p "$OUT"
trap bench_cleanup EXIT
"$ROOT/demo/cluster.sh" up "$NODES" --fresh >/dev/null

step "$NODES machines, $MB MB of log each"
# Lines like a worker's; every 50,000th is rare, every tenth common.
awk -v bytes=$((MB * 1000000)) 'BEGIN {
    while (size < bytes) {
        n++
        what = n % 50000 == 0 ? "TASK_RESTART" : n % 10 == 0 ? "RATE" : "CHECKPOINT"
        line = sprintf("2026-01-01T00:00:00.%06dZ INFO %s job=j task=s1t%d epoch=1 node=n1 pid=4711 in_per_s=%d out_per_s=%d", n % 1000000, what, n % 3, n % 7919, n % 6007)
        print line
        size += length(line) + 1
    }
}' >"$OUT/lines"
for ((i = 1; i <= NODES; i++)); do cp "$OUT/lines" "$RAINSTORM_RUN/n$i/log/bench.log"; done
rare=$((NODES * $(grep -c TASK_RESTART "$OUT/lines")))
common=$((NODES * $(grep -c RATE "$OUT/lines")))
rm "$OUT/lines"

# timed LABEL WANT ARGS...: RUNS times after a warm-up; the lines (or, with -c, the counts) must come to WANT.
timed() {
    local label=$1 want=$2 i begin found
    shift 2
    for ((i = 0; i <= RUNS; i++)); do
        begin=$(date +%s%N)
        "$BIN/rainstormctl" grep "$@" >"$OUT/found" 2>"$OUT/err" || fail "$(cat "$OUT/err")"
        [ "$i" = 0 ] || echo $((($(date +%s%N) - begin) / 1000000))
        case $1 in
        -c) found=$(awk -F: '{ n += $NF } END { print n }' "$OUT/found") ;;
        *) found=$(grep -c bench.log "$OUT/found") ;;
        esac
        [ "$found" = "$want" ] || fail "$label: found $found, not $want"
    done >"$OUT/times"
    awk -v label="$label" -v mb=$((NODES * MB)) -v ms="$(median <"$OUT/times")" -v spread="$(spread <"$OUT/times")" \
        'BEGIN { printf "| %s | %.2f s | %.2f s | %s ms |\n", label, ms / 1000, ms / 1000 * 100 / mb, spread }'
}
echo "| what | median of $RUNS | per 100 MB | min-max, deviation |"
echo "|---|---|---|---|"
timed "a rare line ($rare found)" "$rare" TASK_RESTART
timed "a common line ($common found)" "$common" ' RATE '
timed "counted" "$common" -c ' RATE '
timed "-i -E" "$rare" -i -E 'task_(restart|fail)'
rm -f "$OUT/found" "$OUT/err" "$OUT/times"
