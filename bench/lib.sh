# shellcheck shell=bash
# What the measurements share: data, a cluster of three nodes of their own, medians.

# shellcheck disable=SC2034  # TEXT and CSV are for the scripts that source this file
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../demo/lib.sh"
export LC_ALL=C

json() { sed -n "s/.*\"$1\": *\"\{0,1\}\([-0-9.a-z]*\).*/\1/p" "$2" | head -1; }
median() { sort -n | awk '{ v[NR] = $1 } END { if (NR) print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
spread() { sort -n | awk '{ v[NR] = $1; s += $1; q += $1 * $1 } END { m = s / NR; d = q / NR - m * m; printf "%.2f-%.2f sd %.2f", v[1], v[NR], sqrt(d > 0 ? d : 0) }'; }

# Sets where the data and the cluster of a measurement are.
bench_paths() {
    DATA=$ROOT/bench/data OUT=$ROOT/bench/out
    export RAINSTORM_RUN=$OUT/run RAINSTORM_SUBNET=${BENCH_SUBNET:-127.0.41}
    export RAINSTORM_CLUSTER=$OUT/run/cluster.toml
    mkdir -p "$DATA" "$OUT"
}

# bench_up TEXT CSV: starts the cluster (under bench/out, removed at the end) and loads the files that are there.
bench_up() {
    trap bench_cleanup EXIT
    "$ROOT/demo/cluster.sh" down >/dev/null 2>&1 || true
    "$ROOT/demo/cluster.sh" up 3 --fresh >/dev/null
    step "loading"
    [ ! -s "$1" ] || "$BIN/hydfs" create "$1" text/data 2>/dev/null
    [ ! -s "$2" ] || "$BIN/hydfs" create "$2" csv/data 2>/dev/null
}

# bench_cluster TEXT_MB CSV_MB: makes the data (kept in bench/data), starts the cluster, loads.
bench_cluster() {
    local set kind mb
    bench_paths
    TEXT=$DATA/text-$1 CSV=$DATA/csv-$2
    [ -x "$BIN/leader" ] || fail "the programs are not built; type: cargo build --release"
    for set in "text $1" "csv $2"; do
        read -r kind mb <<<"$set"
        [ "$mb" = 0 ] || [ -s "$DATA/$kind-$mb" ] || { step "making $mb MB of $kind"; "$ROOT/datasets/make.sh" "$kind" "$mb" "$DATA/$kind-$mb"; }
    done
    bench_up "$TEXT" "$CSV"
}

bench_cleanup() {
    "$ROOT/demo/cluster.sh" down >/dev/null || true
    rm -rf "$OUT/run" "$OUT"/*.got
}

# The job's operators, and an awk program that says the same.
job_args() {
    case $1 in
        T0 | C0) printf '%s\0' 2 3 identity '' identity '' ;;
        T1) printf '%s\0' 2 3 grep 'static' replace 'static STATIC' ;;
        T2) printf '%s\0' 2 3 grep '--key word:0 static' count '' ;;
        C1) printf '%s\0' 2 3 filter "-d | -c 14 -eq AIR" project "-d | -c 0,1,5" ;;
        C2) printf '%s\0' 2 3 filter "-d | --key field:2 -c 8 -eq R" count '' ;;
    esac
}
source_of() { case $1 in T*) echo text ;; *) echo csv ;; esac; }
oracle() {
    local text=$TEXT csv=$CSV
    case $1 in
        T0) awk '{ sub(/\r$/, ""); print "text/data:" NR "\t" $0 }' "$text" ;;
        T1) awk '/static/ { sub(/\r$/, ""); gsub(/static/, "STATIC"); print "text/data:" NR "\t" $0 }' "$text" ;;
        T2) awk '/static/ { print $1 "\t" ++n[$1] }' "$text" ;;
        C0) awk '{ print "csv/data:" NR "\t" $0 }' "$csv" ;;
        C1) awk -F'|' '$15 == "AIR" { print "csv/data:" NR "\t" $1 "|" $2 "|" $6 }' "$csv" ;;
        C2) awk -F'|' '$9 == "R" { print $3 "\t" ++n[$3] }' "$csv" ;;
    esac | sort -S 1G --parallel=2
}
