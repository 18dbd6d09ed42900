#!/usr/bin/env bash
# RainStorm beside Spark, Flink and renoir: the same machine, the same data, the same jobs, in one run. Every output is checked.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'TXT'
usage: bench/compare.sh [--quick] [--runs N] [--systems LIST] [--experiments LIST] [--parts LIST] [--tasks LIST]
                        [--text MB] [--csv MB] [--out DIR] [--add]

Sets up the peers (bench/peers/setup.sh), makes the data and the oracles (kept in bench/data), starts a cluster of three nodes, runs every
system in turn, N times (default 3) after a warm-up of each, and leaves in DIR (default bench/out/compare) trials.jsonl, table.md and plots.

  --quick        one trial on a twentieth of the data, four jobs, one kill of each: a look in about five minutes, no result
  --systems      of: rainstorm spark spark-exchange flink flink-tuned flink-spread renoir
  --experiments  of: T0 T1 T2 C0 C1 C2
  --parts        of: throughput kill tasks latency   (start-up and memory are of the throughput trials)
  --tasks        tasks per stage for the part of that name, default "3 6 12 24"
  --add          to the trials that DIR holds from an earlier run; without it they are put aside

With --text 300 --csv 360 the whole took 43 minutes on two cores, before flink-spread was there; the default is twice the data.
TXT
}

RUNS=3 SYSTEMS='rainstorm spark spark-exchange flink flink-tuned flink-spread renoir' JOBS='T0 T1 T2 C0 C1 C2' PARTS='throughput kill tasks latency'
TASKS='3 6 12 24' TEXT_MB=600 CSV_MB=720 TO='' KILL_SECONDS=40 KILL_RATE=50000 KILLED='rainstorm spark-exchange flink flink-tuned renoir' ADD=''
while [ $# -gt 0 ]; do
    case $1 in
        --quick) RUNS=1 TEXT_MB=32 CSV_MB=36 JOBS='T1 T2 C1 C2' PARTS='throughput kill' KILL_SECONDS=12 KILL_RATE=20000 KILLED='rainstorm spark-exchange flink-tuned renoir' && shift && continue ;;
        --add) ADD=yes && shift && continue ;;
        --runs) RUNS=$2 ;;
        --systems) SYSTEMS=$2 ;;
        --experiments) JOBS=$2 ;;
        --parts) PARTS=$2 ;;
        --tasks) TASKS=$2 ;;
        --text) TEXT_MB=$2 ;;
        --csv) CSV_MB=$2 ;;
        --out) TO=$2 ;;
        --help | -h) usage && exit 0 ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift 2
done

export BENCH_SUBNET=${BENCH_SUBNET:-127.0.45}
bench_paths
TO=$(realpath -m -- "${TO:-$OUT/compare}")
PEERS=${RAINSTORM_PEERS:-$HOME/.cache/rainstorm-peers}
need_programs
need_python
"$ROOT/bench/peers/setup.sh"
has() { grep -qx "$1" "$PEERS/have"; }
wanted=''
for system in $SYSTEMS; do
    case $system in
        rainstorm) wanted+=" $system" ;;
        spark | spark-exchange | flink | flink-tuned | flink-spread | renoir) if has "${system%%-*}"; then wanted+=" $system"; else say "left out: $system"; fi ;;
        *) usage >&2 && exit 2 ;;
    esac
done
SYSTEMS=${wanted# }

# Real text where Debian has it: the kernel's sources. Readers of lines differ on CR, NUL, form feeds and what is no UTF-8,
# so none of that is in the data.
kernel_text() {
    local bytes=$(($1 * 1000000)) scratch
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    scratch=$(mktemp -d "$DATA/kernel.XXXXXX")
    (
        cd "$scratch"
        # A machine that has installed nothing yet has no list of packages.
        apt-cache show linux-source >/dev/null 2>&1 || [ "$EUID" -ne 0 ] || apt-get update -qq >/dev/null 2>&1
        package=$(apt-cache depends linux-source | awk '/Depends:/ { print $2; exit }')
        # The same package gives the same bytes. Headers are left out: most of them are tables of registers.
        apt-get download -qq "$package" 2>/dev/null && dpkg-deb --fsys-tarfile "$package"*.deb 2>/dev/null |
            tar -xO --wildcards './usr/src/*.tar.xz' 2>/dev/null | tar -xJO --wildcards '*.c' 2>/dev/null | head -c "$bytes"
    ) >"$2" || true
    rm -rf "$scratch"
    [ "$(stat -c %s "$2")" -eq "$bytes" ]
}
plain_lines() { iconv -c -f UTF-8 -t UTF-8 | tr -d '\r\0' | tr '\f\v' '  ' | awk 1; }

TEXT=$DATA/compare-text-$TEXT_MB CSV=$DATA/compare-csv-$CSV_MB
if [ ! -s "$TEXT" ]; then
    step "making $TEXT_MB MB of text"
    kernel_text "$TEXT_MB" "$TEXT.raw" || { say "    no kernel sources to be had: other source code" && "$ROOT/datasets/make.sh" text "$TEXT_MB" "$TEXT.raw"; }
    plain_lines <"$TEXT.raw" >"$TEXT.new"
    rm -f "$TEXT.raw"
    mv "$TEXT.new" "$TEXT"
fi
if [ ! -s "$CSV" ]; then
    step "making $CSV_MB MB of TPC-H lineitem"
    PATH=$PATH:$PEERS/venv/bin "$ROOT/datasets/make.sh" csv "$CSV_MB" "$CSV"
fi

# The folder that the trials work from: the data whole and in 24 files, the jobs as the leader is told them, what must come out.
rm -rf "$TO/work"
mkdir -p "$TO/data" "$TO/jobs" "$DATA/want" "$TO/work"
for kind in text csv; do
    file=$TEXT
    [ "$kind" = text ] || file=$CSV
    # Flink does not split a text file, and a Spark batch takes files: both get 24, which 3, 6, 12 and 24 tasks share evenly.
    if [ ! -d "$file.parts" ]; then
        rm -rf "$file.parts.new"
        mkdir -p "$file.parts.new"
        split -n l/24 -d -a 2 "$file" "$file.parts.new/part"
        mv "$file.parts.new" "$file.parts"
    fi
    [ -s "$file.lines" ] || wc -l <"$file" >"$file.lines"
    for end in '' .parts .lines; do ln -sfn "$file$end" "$TO/data/$kind$end"; done
done
rm -rf "$TO/want"
mkdir -p "$TO/want"
# More tasks and the latency are measured with T1, whatever else is.
needed=$JOBS
[[ " $JOBS " == *' T1 '* || $PARTS != *tasks* && $PARTS != *latency* ]] || needed+=' T1'
for job in $needed; do
    job_args "$job" >"$TO/jobs/$job"
    # The peers' lines have no keys of their own: their oracle is the same without RainStorm's.
    want=$DATA/want/$job-$TEXT_MB-$CSV_MB
    [ -s "$want" ] || { step "the oracle of $job" && oracle "$job" >"$want.new" && mv "$want.new" "$want"; }
    case $job in
        ?2) ln -sfn "$want" "$TO/want/$job.values" ;;
        *) [ -s "$want.values" ] || { cut -f 2- "$want" | sort -S 1G --parallel=2 >"$want.values.new" && mv "$want.values.new" "$want.values"; }
            ln -sfn "$want.values" "$TO/want/$job.values" ;;
    esac
    ln -sfn "$want" "$TO/want/$job"
done

step "the machine: $(nproc) cores, $(free -g | awk '/^Mem/ { print $2 }') GiB, load $(cut -d ' ' -f 1 /proc/loadavg); the disk comes to rest before each trial"
bench_up "$TEXT" "$CSV"
RESULTS=$TO/trials.jsonl
[ -n "$ADD" ] || [ ! -e "$RESULTS" ] || mv "$RESULTS" "$RESULTS.before"
trials() {
    PYTHONDONTWRITEBYTECODE=1 python3 "$ROOT/bench/peers/$1.py" --out "$TO" --peers "$PEERS" --bin "$BIN" --subnet "$BENCH_SUBNET" --results "$RESULTS" "${@:2}"
}
each() { tr ' ' '\n' <<<"$1" | sort; }
for part in $PARTS; do
    step "$part"
    case $part in
        throughput) trials trials --part throughput --systems "$SYSTEMS" --experiments "$JOBS" --runs "$RUNS" ;;
        tasks) trials trials --part tasks --systems "$SYSTEMS" --tasks "$TASKS" --runs "$RUNS" ;;
        latency) trials trials --part latency --systems "$SYSTEMS" --runs "$RUNS" ;;
        kill) trials kill --systems "$(comm -12 <(each "$SYSTEMS") <(each "$KILLED") | tr '\n' ' ')" --seconds "$KILL_SECONDS" --rate "$KILL_RATE" --runs "$RUNS" ;;
        *) fail "there is no part $part" ;;
    esac
done
rm -rf "$TO/work"
step "the table, in $TO"
python3 "$ROOT/bench/peers/figures.py" "$RESULTS" "$TO"
