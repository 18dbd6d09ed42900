#!/usr/bin/env bash
# Measures RainStorm on this machine: the six jobs, start-up, recovery. Every figure's output is checked against an oracle.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'TXT'
usage: bench/run.sh [--runs N] [--jobs "T0 T1 T2 C0 C1 C2"] [--text MB] [--csv MB] [--kills N] [--exactly-once true|false|both]

Starts a cluster of three nodes of its own (under bench/out, removed at the end), makes the data (kept in bench/data),
runs each job N times (default 3) after one warm-up, in turn, and prints the medians; then their latency at half the rate. --kills 0 leaves recovery out.
TXT
}

RUNS=3 JOBS='T0 T1 T2 C0 C1 C2' TEXT_MB=160 CSV_MB=180 KILLS=20 MODES=true
while [ $# -gt 0 ]; do
    case $1 in
        --runs) RUNS=$2 ;;
        --jobs) JOBS=$2 ;;
        --text) TEXT_MB=$2 ;;
        --csv) CSV_MB=$2 ;;
        --kills) KILLS=$2 ;;
        --exactly-once) if [ "$2" = both ]; then MODES='true false'; else MODES=$2; fi ;;
        --help | -h) usage && exit 0 ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift 2
done

bench_cluster "$TEXT_MB" "$CSV_MB"

cpu_ticks() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 }' /proc/stat; }

N=0
# run_job JOB MODE [LINES_PER_SECOND]: one run, checked. Sets SUMMARY and CPU (ticks of the whole machine).
run_job() {
    local job=$1 mode=$2 rate=${3:-0} args=() before
    mapfile -d '' args < <(job_args "$job")
    N=$((N + 1))
    SUMMARY=$OUT/summary.json
    before=$(cpu_ticks)
    "$BIN/leader" --job "bench-$N-$$" --console none --progress never --summary "$SUMMARY" "${args[@]}" \
        "$(source_of "$job")" "out/$N" "$mode" false "$rate" || fail "$job failed"
    CPU=$(($(cpu_ticks) - before))
    "$BIN/hydfs" get "out/$N" "$OUT/$job.got" 2>/dev/null
    if [ "$mode" = true ]; then
        [ -s "$OUT/$job-$TEXT_MB-$CSV_MB.want" ] || oracle "$job" >"$OUT/$job-$TEXT_MB-$CSV_MB.want"
        sort -S 1G --parallel=2 "$OUT/$job.got" | cmp -s - "$OUT/$job-$TEXT_MB-$CSV_MB.want" || fail "$job: the output is wrong"
    fi
    "$BIN/hydfs" rm "out/$N"
    rm -f "$OUT/$job.got"
}

step "the six jobs, 2 stages of 3 tasks, 3 nodes, 3 replicas; $RUNS runs after a warm-up"
printf '%-4s %-6s %12s %10s %22s %12s %10s %10s\n' job exact lines 'M lines/s' 'min-max sd' 'CPU ns/line' 'p50 ms' 'p99 ms'
: >"$OUT/results.tsv"
for ((run = 0; run <= RUNS; run++)); do
    for job in $JOBS; do
        for mode in $MODES; do
            run_job "$job" "$mode"
            [ "$run" -gt 0 ] || continue
            lines=$(json lines_in "$SUMMARY")
            awk -v j="$job" -v m="$mode" -v l="$lines" -v s="$(json seconds "$SUMMARY")" -v c="$CPU" -v hz="$(getconf CLK_TCK)" \
                -v p50="$(json p50 "$SUMMARY")" -v p99="$(json p99 "$SUMMARY")" \
                'BEGIN { printf "%s\t%s\t%d\t%.4f\t%.1f\t%s\t%s\n", j, m, l, l / s / 1e6, c / hz / l * 1e9, p50, p99 }' >>"$OUT/results.tsv"
        done
    done
done
column_of() { awk -F'\t' -v j="$1" -v m="$2" -v f="$3" '$1 == j && $2 == m { print $f }' "$OUT/results.tsv"; }
for job in $JOBS; do
    for mode in $MODES; do
        printf '%-4s %-6s %12s %10.2f %22s %12.0f %10s %10s\n' "$job" "$mode" "$(column_of "$job" "$mode" 3 | median)" \
            "$(column_of "$job" "$mode" 4 | median)" "$(column_of "$job" "$mode" 4 | spread)" "$(column_of "$job" "$mode" 5 | median)" \
            "$(column_of "$job" "$mode" 6 | median)" "$(column_of "$job" "$mode" 7 | median)"
    done
done

if [[ $MODES == true* ]]; then
    step "latency from a line read to its result stored, exactly-once, at half the rate above"
    for job in $JOBS; do
        rate=$(column_of "$job" true 4 | median | awk '{ printf "%d", $1 * 5e5 }')
        for ((run = 0; run < RUNS; run++)); do
            run_job "$job" true "$rate"
            printf '%s\t%s\n' "$(json p50 "$SUMMARY")" "$(json p99 "$SUMMARY")"
        done >"$OUT/latency.tsv"
        printf '%-4s at %9s lines/s: p50 %6s ms, p99 %6s ms (medians of %s)\n' "$job" "$rate" \
            "$(cut -f 1 "$OUT/latency.tsv" | median)" "$(cut -f 2 "$OUT/latency.tsv" | median)" "$RUNS"
    done
fi

step "start-up: from typing \`leader\` to the first output tuple, over SSH"
for ((run = 0; run < 5; run++)); do
    N=$((N + 1))
    began=$(date +%s%N)
    exec 3< <("$BIN/leader" --job "bench-$N-$$" --progress never 2 3 grep static replace 'static STATIC' text "out/$N" true false)
    read -r _ <&3 || fail "no output"
    echo $((($(date +%s%N) - began) / 1000000))
    cat <&3 >/dev/null
    exec 3<&-
    "$BIN/hydfs" rm "out/$N"
done >"$OUT/startup.tsv"
printf 'first output after %s ms (median of 5; %s)\n' "$(median <"$OUT/startup.tsv")" "$(spread <"$OUT/startup.tsv")"

[ "$KILLS" -gt 0 ] || exit 0
step "recovery: from kill -9 of a task to its replacement's first new output"
bench_cleanup
exec "$ROOT/bench/recovery.sh" --kills "$KILLS" --nodes 0
