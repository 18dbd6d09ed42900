#!/usr/bin/env bash
# HyDFS by itself: how fast, against cp, scp and NATS JetStream on the same machine; and four experiments as plots in docs/plots.
# Everything that is read is compared with what was written.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=bench/nats.sh
. "$ROOT/bench/nats.sh"

usage() {
    cat <<'TXT'
usage: bench/hydfs.sh [--quick] [--trials N] [--only PART,...]
       parts: speed merge cache repair; --quick: small sizes and one trial, to see that it works
TXT
}
TRIALS=3 PARTS=speed,merge,cache,repair QUICK=''
while [ $# -gt 0 ]; do
    case $1 in
        --quick) QUICK=yes TRIALS=1 ;;
        --trials) TRIALS=$2 && shift ;;
        --only) PARTS=$2 && shift ;;
        -h | --help) usage && exit 0 ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift
done
MB=1000 SECONDS_OF_APPENDS=10 APPENDS=250 FILES=1000 READS=10000 CLIENTS='1 2 4 6 8 10' SIZES='1 10 25 50 75 100'
if [ -n "$QUICK" ]; then MB=50 SECONDS_OF_APPENDS=2 APPENDS=50 FILES=100 READS=500 CLIENTS='1 5 10' SIZES='1 10'; fi

need_python
OUT=$ROOT/bench/out
PLOTS=$ROOT/docs/plots
export RAINSTORM_RUN=$OUT/run RAINSTORM_SUBNET=${BENCH_SUBNET:-127.0.41} RAINSTORM_CLUSTER=$OUT/run/cluster.toml
RUN=$RAINSTORM_RUN
mkdir -p "$OUT" "$PLOTS"
for program in hydfs hydfsd hydfs-load memberd; do
    [ -x "$BIN/$program" ] || fail "$BIN/$program is missing; type: cargo build --release"
done
# shellcheck disable=SC2317,SC2329  # the trap calls it
cleanup() {
    nats_down
    bench_cleanup
    rm -rf "$OUT/nats"
    rm -f "$OUT"/hydfs.big* "$OUT"/hydfs.tmp
    rm -rf "$OUT/hydfs.cache"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
cluster() {
    "$ROOT/demo/cluster.sh" down >/dev/null 2>&1 || true
    "$ROOT/demo/cluster.sh" up "$1" --fresh >/dev/null
}
h() { "$BIN/hydfs" "$@"; }
load() { "$BIN/hydfs-load" "$@"; }
want() { case ,$PARTS, in *",$1,"*) ;; *) return 1 ;; esac; }
# timed COMMAND...: how many seconds it took, on standard output; its own output goes to hydfs.tmp.
timed() {
    local begun ended
    begun=$(date +%s%N)
    "$@" >"$OUT/hydfs.tmp" || fail "$* failed"
    ended=$(date +%s%N)
    awk -v ns=$((ended - begun)) 'BEGIN { printf "%.6f\n", ns / 1e9 }'
}
mean_sd() { awk '{ n++; s += $1; q += $1 * $1 } END { if (!n) { print "-"; exit } m = s / n; d = n > 1 ? (q - n * m * m) / (n - 1) : 0; printf "%.*f ± %.*f", (m < 100), m, (m < 100), sqrt(d > 0 ? d : 0) }'; }

# --- speed ---

# row NAME UNIT VALUE: one measured value.
row() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$OUT/hydfs-speed.tsv"; }
per_s() { awk -v mb="$MB" -v s="$1" 'BEGIN { printf "%.1f\n", mb / s }'; }
# Clients, and how many appends each has under way.
APPENDERS=('1 1' '10 1' '10 64')
# append_rows WHO CLIENTS WINDOW: out of what the load said.
append_rows() {
    local what="$1, 4 KiB appends, clients: $2, under way for each: $3"
    row "$what" 'appends/s' "$(json per_s "$OUT/hydfs.said")"
    row "$what, p50" us "$(json p50_us "$OUT/hydfs.said")"
    row "$what, p99" us "$(json p99_us "$OUT/hydfs.said")"
}

# A virtual machine may have given free memory back to its host: whoever is first to write a file then pays for that. This
# makes enough of it there again, before each copy of whatever program.
fetch_memory() { head -c "$((MB * 7 / 2))000000" /dev/zero >"$OUT/hydfs.memory" && rm "$OUT/hydfs.memory"; }

# copy WHO: COMMAND... copies the big file; a row of its speed.
copy() {
    local what=$1 took
    shift
    fetch_memory
    # By a variable: what fails within an argument does not end the script.
    took=$(timed "$@")
    row "$what" MB/s "$(per_s "$took")"
}
got_it() { cmp "$OUT/hydfs.big" "$OUT/hydfs.big.got" && rm "$OUT/hydfs.big.got"; }

speed_hydfs() {
    copy 'HyDFS create' h create "$OUT/hydfs.big" "big-$1"
    copy 'HyDFS get' h get "big-$1" "$OUT/hydfs.big.got"
    got_it
    h rm "big-$1"
    : >"$OUT/hydfs.tmp"
    local kind clients window
    for kind in "${APPENDERS[@]}"; do
        read -r clients window <<<"$kind"
        h create "$OUT/hydfs.tmp" "appends-$1"
        load append "appends-$1" --seconds "$SECONDS_OF_APPENDS" --clients "$clients" --window "$window" >"$OUT/hydfs.said"
        append_rows HyDFS "$clients" "$window"
        h merge "appends-$1" >/dev/null
        h rm "appends-$1"
    done
}

speed_nats() {
    local kind clients window
    copy 'NATS put' n put "$OUT/hydfs.big" "big-$1"
    copy 'NATS get' n get "big-$1" "$OUT/hydfs.big.got"
    got_it
    n rm "big-$1"
    for kind in "${APPENDERS[@]}"; do
        read -r clients window <<<"$kind"
        n append "appends-$1" --seconds "$SECONDS_OF_APPENDS" --clients "$clients" --window "$window" >"$OUT/hydfs.said"
        append_rows NATS "$clients" "$window"
        n rm "appends-$1"
    done
}

speed_copies() {
    local node_dir=$RUN/n1
    copy cp cp "$OUT/hydfs.big" "$OUT/hydfs.big.got"
    got_it
    # -O: the cluster's sshd has no SFTP.
    copy scp scp -O -q -F none -P 2222 -i "$RUN/id_ed25519" -o "UserKnownHostsFile=$RUN/known_hosts" -o BatchMode=yes \
        "$OUT/hydfs.big" "$(id -un)@$RAINSTORM_SUBNET.11:$node_dir/big.scp"
    rm -f "$node_dir/big.scp"
}

speed() {
    local trial nats=''
    if nats_possible; then nats=yes; fi
    step "speed: $MB MB, three replicas, $TRIALS trials after a warm-up"
    cluster 3
    [ -z "$nats" ] || nats_up "$OUT/nats" "$RAINSTORM_SUBNET"
    head -c "${MB}000000" /dev/urandom >"$OUT/hydfs.big"
    : >"$OUT/hydfs-speed.tsv"
    for ((trial = 0; trial <= TRIALS; trial++)); do
        [ "$trial" -ne 1 ] || : >"$OUT/hydfs-speed.tsv"
        speed_hydfs "$trial"
        [ -z "$nats" ] || speed_nats "$trial"
        speed_copies
    done
    nats_down
    printf '| what | unit | mean ± deviation |\n|---|---|---|\n'
    cut -f1,2 "$OUT/hydfs-speed.tsv" | awk '!seen[$0]++' | while IFS=$'\t' read -r what unit; do
        printf '| %s | %s | %s |\n' "$what" "$unit" \
            "$(awk -F'\t' -v w="$what" '$1 == w { print $3 }' "$OUT/hydfs-speed.tsv" | mean_sd)"
    done
    rm -f "$OUT"/hydfs.big*
}

# --- experiments ---

# plot NAME TITLE X Y: of bench/out/hydfs-NAME.tsv.
plot() {
    python3 "$ROOT/bench/plot.py" "$PLOTS/hydfs-$1.svg" "$2" "$3" "$4" <"$OUT/hydfs-$1.tsv"
    good "docs/plots/hydfs-$1.svg"
}

merge_time() {
    local trial size clients file
    step "merge after $APPENDS appends by each of 1 to 10 clients at once"
    cluster 3
    : >"$OUT/hydfs-merge.tsv"
    : >"$OUT/hydfs.empty"
    for ((trial = 0; trial < TRIALS; trial++)); do
        for size in 4 40; do
            for clients in $CLIENTS; do
                file=merge-$trial-$size-$clients
                h create "$OUT/hydfs.empty" "$file"
                load append "$file" --clients "$clients" --size $((size * 1000)) --count "$APPENDS" --seconds 60 --window 16 >/dev/null
                # Once with all that is new, once with nothing new.
                for what in "$size KB" "$size KB, again"; do
                    h merge "$file" >"$OUT/hydfs.tmp"
                    printf '%s\t%s\t%s\n' "$what" "$clients" "$(sed -n 's/.* in \([0-9.]*\) ms$/\1/p' "$OUT/hydfs.tmp")" >>"$OUT/hydfs-merge.tsv"
                done
                h rm "$file"
            done
        done
    done
    plot merge "merge after $APPENDS concurrent appends by each client" 'clients' 'ms'
}

cache_time() {
    local trial law appends percent all
    step "get of $FILES files of 4 KB, $READS times, by size of the cache"
    cluster 3
    : >"$OUT/hydfs-cache.tsv"
    load read cached/ --files "$FILES" --size 4000 --reads 1 >/dev/null
    for ((trial = 0; trial < TRIALS; trial++)); do
        for appends in 0 10; do
            for law in uniform zipf; do
                for percent in 0 10 25 50 75 100; do
                    # With what each block costs: 16 bytes.
                    all=$(h find cached/ | awk '{ s += $2 + 16 } END { print s }')
                    load read cached/ --files "$FILES" --size 4000 --reads "$READS" --law "$law" --appends "$appends" --seed $((trial + 1)) \
                        --cache "$OUT/hydfs.cache" --cache-bytes $((all * percent / 100)) >"$OUT/hydfs.said"
                    printf '%s\t%s\t%s\n' "$law$([ "$appends" -eq 0 ] || echo ", $appends % appends")" "$percent" "$(json mean_us "$OUT/hydfs.said")" >>"$OUT/hydfs-cache.tsv"
                done
            done
            # Appends made the files longer: the next trial begins with the same.
            if [ "$appends" -gt 0 ]; then
                h find cached/ | cut -f1 | while read -r file; do h rm "$file"; done
                load read cached/ --files "$FILES" --size 4000 --reads 1 >/dev/null
            fi
        done
    done
    plot cache "get of 4 KB files through the client's cache" 'cache, % of all bytes' 'microseconds per get, mean'
}

repair_time() {
    local trial size name down
    step "a node is lost: until its copy of a file is elsewhere"
    cluster 5
    : >"$OUT/hydfs-repair.tsv"
    : >"$OUT/hydfs-bandwidth.tsv"
    for ((trial = 0; trial < TRIALS; trial++)); do
        for size in $SIZES; do
            name=repair-$trial-$size
            head -c "${size}000000" /dev/urandom >"$OUT/hydfs.big"
            h create "$OUT/hydfs.big" "$name"
            python3 "$ROOT/bench/repair.py" "$BIN" "$RUN" "$name" >"$OUT/hydfs.said"
            awk -F'\t' -v x="$size" 'NR == 1 { printf "detection\t%s\t%s\nre-replication\t%s\t%s\n", x, $1, x, $2 }' "$OUT/hydfs.said" >>"$OUT/hydfs-repair.tsv"
            awk -F'\t' -v s="$size" '$1 == "bandwidth" { printf "%s MB\t%s\t%s\n", s, $2, $3 }' "$OUT/hydfs.said" >"$OUT/hydfs.tmp"
            # What happens in a trial is not averaged with another's.
            if [ "$trial" -eq 0 ]; then cat "$OUT/hydfs.tmp" >>"$OUT/hydfs-bandwidth.tsv"; fi
            h get "$name" "$OUT/hydfs.big.got" && cmp "$OUT/hydfs.big" "$OUT/hydfs.big.got"
            down=$({ "$ROOT/demo/cluster.sh" status || true; } | awk '/down/ { print $1 }')
            "$ROOT/demo/cluster.sh" start-node "$down" >/dev/null
            h merge "$name" >/dev/null
            h rm "$name"
        done
    done
    plot repair 're-replication after a node is lost, by size of the file' 'MB' 'seconds'
    plot bandwidth 'bytes written by the storage daemons while a copy is rebuilt' 'seconds since the take-over' 'MB/s'
}

want speed && speed
want merge && merge_time
want cache && cache_time
want repair && repair_time
exit 0
