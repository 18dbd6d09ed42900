#!/usr/bin/env bash
# Do the system tests see? Builds the programs without one step of the protocol (common/src/mutants.rs), and runs tests until one fails.
# A mutant that passes all of them makes this script fail, and so does one of the tests that fails with nothing left out. Takes about ten minutes
# on 2 cores.
set -euo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../demo/lib.sh"

usage() { say "usage: tests/mutants.sh [MUTANT...]    of: Dedup EarlySend EarlyAck Fence (all, if none is named)"; }
case ${1:-} in -h | --help) usage && exit 0 ;; esac
[ $# -gt 0 ] || set -- Dedup EarlySend EarlyAck Fence

need_cc
need_cargo
need_ssh
need_python
SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/rainstorm-mutants.XXXXXX")
trap 'rm -rf "$SCRATCH"' EXIT
trap 'exit 130' INT TERM

# tests_of MUTANT: sets TESTS to what should see it. The names are those of common::mutants! in worker and hydfs.
tests_of() {
    case $1 in
        Dedup) TESTS='t102 t12 t101 t14 t38' ;;  # repeats are taken for new
        EarlySend) TESTS='t101 t102 t12' ;;      # outputs leave before the log has what they depend on
        EarlyAck) TESTS='t12 t101 t102' ;;       # inputs are acknowledged before a checkpoint covers them
        Fence) TESTS='t38 t31' ;;                # neither storage nor receivers refuse an older process
        *) usage >&2 && exit 2 ;;
    esac
}

# passes TEST FOLDER: with the programs in the folder. What it said is in the scratch folder.
passes() {
    RAINSTORM_BIN=$2 timeout 600 cargo test --workspace --release --quiet --test system -- "$1_" >"$SCRATCH/said" 2>&1
}

cd "$ROOT"
cargo build --release --workspace --quiet
cargo test --workspace --release --test system --no-run --quiet
step "nothing left out"
declare -A CONTROL=()
for mutant in "$@"; do
    tests_of "$mutant"
    for test in $TESTS; do CONTROL[$test]=1; done
done
for test in "${!CONTROL[@]}"; do
    passes "$test" "$BIN" || fail "$test fails with nothing left out: $(grep -m 1 '^Error: ' "$SCRATCH/said" | cut -c 1-300)"
    say "    $test passes"
done
missed=0
for mutant in "$@"; do
    tests_of "$mutant"
    step "$mutant: building"
    # The same folder each time, so that only what asks for the mutant's name is compiled again.
    RAINSTORM_MUTANT=$mutant RUSTFLAGS='--cfg mutants' CARGO_TARGET_DIR=$ROOT/target/mutants cargo build --release --quiet
    seen=''
    for test in $TESTS; do
        if ! passes "$test" "$ROOT/target/mutants/release"; then
            seen=$test
            break
        fi
        say "    $test passes"
    done
    if [ -n "$seen" ]; then
        good "$mutant: $seen fails: $(grep -m 1 -E '^Error: |panicked at|missing|twice' "$SCRATCH/said" | cut -c 1-300)"
    else
        missed=$((missed + 1))
        say "$mutant: NOBODY saw it"
    fi
done
[ "$missed" -eq 0 ] || fail "$missed of $# mutants were not seen"
