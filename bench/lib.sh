# shellcheck shell=bash
# What the measurements share: data, a cluster of three nodes of their own, medians.

# shellcheck disable=SC2034  # TEXT and CSV are for the scripts that source this file
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../demo/lib.sh"
export LC_ALL=C

json() { sed -n "s/.*\"$1\": *\"\{0,1\}\([-0-9.a-z]*\).*/\1/p" "$2" | head -1; }
median() { sort -n | awk '{ v[NR] = $1 } END { if (NR) print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
spread() { sort -n | awk '{ v[NR] = $1; s += $1; q += $1 * $1 } END { m = s / NR; d = q / NR - m * m; printf "%.2f-%.2f sd %.2f", v[1], v[NR], sqrt(d > 0 ? d : 0) }'; }

# bench_cluster TEXT_MB CSV_MB: makes the data (kept in bench/data), starts the cluster (under bench/out, removed at the end), loads.
bench_cluster() {
    local set kind mb
    DATA=$ROOT/bench/data OUT=$ROOT/bench/out
    export RAINSTORM_RUN=$OUT/run RAINSTORM_SUBNET=${BENCH_SUBNET:-127.0.41}
    export RAINSTORM_CLUSTER=$OUT/run/cluster.toml
    TEXT=$DATA/text-$1 CSV=$DATA/csv-$2
    mkdir -p "$DATA" "$OUT"
    trap bench_cleanup EXIT
    [ -x "$BIN/leader" ] || fail "the programs are not built; type: cargo build --release"
    for set in "text $1" "csv $2"; do
        read -r kind mb <<<"$set"
        [ "$mb" = 0 ] || [ -s "$DATA/$kind-$mb" ] || { step "making $mb MB of $kind"; "$ROOT/datasets/make.sh" "$kind" "$mb" "$DATA/$kind-$mb"; }
    done
    "$ROOT/demo/cluster.sh" down >/dev/null 2>&1 || true
    "$ROOT/demo/cluster.sh" up 3 --fresh >/dev/null
    step "loading"
    [ "$1" = 0 ] || "$BIN/hydfs" create "$TEXT" text/data 2>/dev/null
    [ "$2" = 0 ] || "$BIN/hydfs" create "$CSV" csv/data 2>/dev/null
}

bench_cleanup() {
    "$ROOT/demo/cluster.sh" down >/dev/null || true
    rm -rf "$OUT/run" "$OUT"/*.got
}
