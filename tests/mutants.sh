#!/usr/bin/env bash
# Do the system tests see? Builds the programs without one step of the protocol, in a copy of the sources, and runs tests until one
# fails. A mutant that passes all of them makes this script fail, and so does one of the tests that fails with nothing left out. Takes about ten minutes on 2 cores.
set -euo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../demo/lib.sh"

usage() { say "usage: tests/mutants.sh [MUTANT...]    of: dedup early-send early-ack fence (all, if none is named)"; }
case ${1:-} in -h | --help) usage && exit 0 ;; esac
[ $# -gt 0 ] || set -- dedup early-send early-ack fence

need_cc
need_cargo
need_ssh
need_python
need perl "$(install_line perl perl perl perl)"
SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/rainstorm-mutants.XXXXXX")
trap 'rm -rf "$SCRATCH"' EXIT
trap 'exit 130' INT TERM

# without FILE WHAT BY: replaces one piece of the copy; the code may have changed since this was written.
without() {
    local before
    before=$(cksum <"$SCRATCH/src/$1")
    perl -0pi -e "s/$2/$3/" "$SCRATCH/src/$1"
    [ "$before" != "$(cksum <"$SCRATCH/src/$1")" ] || fail "$1 has no such place any more: $2"
}

# always NAME: what the simulation's mutant does, the program does.
always() { without "worker/src/task/$1" '#\[cfg\(test\)\]\s*if self\.config\.mutant == Mutant::'"$2" 'if true'; }

# mutate MUTANT: changes the copy. Sets TESTS to what should see it.
mutate() {
    case $1 in
        dedup) # repeats are taken for new
            always mod.rs Dedup
            without worker/src/task/inbox.rs '#\[cfg\(test\)\]\s*(pub fn receive_unchecked)' '$1'
            TESTS='t102 t12 t101 t14 t38'
            ;;
        early-send) # outputs leave before the log has what they depend on
            always log.rs EarlySend
            TESTS='t101 t102 t12'
            ;;
        early-ack) # inputs are acknowledged before a checkpoint covers them
            always mod.rs EarlyAck
            TESTS='t12 t101 t102'
            ;;
        fence) # neither storage nor receivers refuse an older process
            without hydfs/src/replica/plan.rs 'let fenced = mutant != Mutant::NoFence' 'let fenced = false && mutant != Mutant::NoFence'
            without worker/src/driver/engine.rs 'if open\.epoch < seen' 'if false'
            TESTS='t38 t31'
            ;;
        *) usage >&2 && exit 2 ;;
    esac
}

# copy: the sources as they are.
copy() {
    rm -rf "$SCRATCH/src" && mkdir "$SCRATCH/src"
    git ls-files -z | tar --null -T - -cf - | tar -xf - -C "$SCRATCH/src"
}

# passes TEST FOLDER: with the programs in the folder. What it said is in the scratch folder.
passes() {
    RAINSTORM_BIN=$2 timeout 600 cargo test --workspace --release --quiet --test system -- "$1_" >"$SCRATCH/said" 2>&1
}

cd "$ROOT"
cargo build --release --quiet
cargo test --workspace --release --test system --no-run --quiet
step "nothing left out"
declare -A CONTROL=()
for mutant in "$@"; do
    copy
    mutate "$mutant"
    for test in $TESTS; do CONTROL[$test]=1; done
done
for test in "${!CONTROL[@]}"; do
    passes "$test" "$BIN" || fail "$test fails with nothing left out: $(grep -m 1 '^Error: ' "$SCRATCH/said" | cut -c 1-300)"
    say "    $test passes"
done
missed=0
for mutant in "$@"; do
    copy
    mutate "$mutant"
    step "$mutant: building"
    # The same folder each time, so that only what was changed is compiled again.
    (cd "$SCRATCH/src" && CARGO_TARGET_DIR=$SCRATCH/target RUSTFLAGS=-Awarnings cargo build --release --quiet)
    seen=''
    for test in $TESTS; do
        if ! passes "$test" "$SCRATCH/target/release"; then
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
