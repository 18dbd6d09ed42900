#!/usr/bin/env bash
# Coverage-guided fuzzing of everything that reads bytes from strangers, peers, operators and disks. For releases; by hand, not in CI.
set -euo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../demo/lib.sh"

usage() {
    cat <<'TXT'
usage: tests/fuzz.sh [SECONDS] [TARGET...]

Runs each TARGET (default: all of them) under libFuzzer for SECONDS (default: 60), one after the other, from valid messages on.
tests/decoders has the targets; its ordinary tests try each of them for a moment, without this.

  tests/fuzz.sh --list       the targets' names
  tests/fuzz.sh 600 hello    ten minutes of one

What was found interesting is kept in run/fuzz/corpus and is where the next run begins. An input that makes a target panic, hang
(10 s), or allocate more than 16 MiB at once is written to run/fuzz, and the exit code is 1. To see it again:

  RAINSTORM_TARGET=hello run/fuzz/fuzz run/fuzz/hello-crash-...

Needs a C++ compiler and stable Rust, and about five minutes to build the first time.
TXT
}

LIST='' TIME=60
case ${1:-} in
    -h | --help) usage && exit 0 ;;
    --list) LIST=yes && shift ;;
    -*) usage >&2 && exit 2 ;;
    [0-9]*) TIME=$1 && shift ;;
esac
[[ $TIME =~ ^[0-9]+$ ]] || { usage >&2 && exit 2; }

compiles_cxx() { printf '#include <vector>\nint main() { return std::vector<int>().size(); }\n' | c++ -x c++ -o /dev/null -; }
need_cc
ask 'a C++ compiler (c++)' g++ gcc-c++ gcc g++ compiles_cxx
need_cargo

# What libFuzzer counts: edges and comparisons. --target keeps it out of build scripts and macros.
COVERAGE='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters'
COVERAGE+=' -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1'
HOST=$(rustc -vV | sed -n 's/^host: //p')
BUILT=${CARGO_TARGET_DIR:-$ROOT/target}/fuzz
PLACE=$RUN/fuzz
mkdir -p "$PLACE"
# The versions that are shipped; what the fuzzer adds comes to them.
cp "$ROOT/Cargo.lock" "$ROOT/tests/fuzz/Cargo.lock"
CARGO_TARGET_DIR=$BUILT RUSTFLAGS=$COVERAGE cargo build --release --quiet --target "$HOST" --manifest-path "$ROOT/tests/fuzz/Cargo.toml"
cp "$BUILT/$HOST/release/fuzz" "$PLACE/fuzz"
mapfile -t TARGETS < <("$PLACE/fuzz" 2>/dev/null)
if [ -n "$LIST" ]; then
    printf '%s\n' "${TARGETS[@]}"
    exit
fi
[ $# -gt 0 ] || set -- "${TARGETS[@]}"
for target in "$@"; do
    [[ " ${TARGETS[*]} " == *" $target "* ]] || fail "there is no target $target; these are: ${TARGETS[*]}"
done

WORST=0
printf '%-16s %12s %10s %8s %8s\n' target inputs inputs/s edges corpus
for target in "$@"; do
    corpus=$PLACE/corpus/$target said=$PLACE/$target.log code=0
    mkdir -p "$corpus"
    RAINSTORM_TARGET=$target RAINSTORM_CORPUS=$corpus "$PLACE/fuzz" "$corpus" -max_total_time="$TIME" -max_len=65536 -timeout=10 \
        -artifact_prefix="$PLACE/$target-" -print_final_stats=1 >"$said" 2>&1 || code=$?
    awk -v target="$target" '
        / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") edges = $(i + 1) }
        /stat::number_of_executed_units:/ { inputs = $2 }
        /stat::average_exec_per_sec:/ { speed = $2 }
        END { printf "%-16s %12d %10d %8d ", target, inputs, speed, edges }' "$said"
    find "$corpus" -type f | wc -l
    if [ "$code" -ne 0 ]; then
        WORST=1
        grep -aE 'panicked at|an allocation of|ERROR: libFuzzer|Test unit written' "$said" | sed 's/^/    /' || tail -n 3 "$said"
    fi
done
[ "$WORST" -eq 0 ] || fail "inputs that must not fail do; the logs and inputs are in $PLACE"
good 'every target took or refused whatever it was given'
