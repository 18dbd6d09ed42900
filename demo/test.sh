#!/usr/bin/env bash
# All tests: formatting, lints, unit and property tests and simulations, then the real programs over real SSH.
set -euo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=demo/procs.sh
. "$ROOT/demo/procs.sh"

# Everything that the tests write is in here, their clusters included, and goes at the end.
SCRATCH=$(realpath "$(mktemp -d "${TMPDIR:-/tmp}/rainstorm-test.XXXXXX")")
PART=''

# descendants PID: all processes below it.
descendants() {
    local child
    while read -r child; do
        echo "$child"
        descendants "$child"
    done < <(cat "/proc/$1/task/"*/children 2>/dev/null | xargs -n 1 -r)
}

cleanup() {
    trap '' INT TERM
    local cluster left pid
    if [ -n "$PART" ]; then
        # shellcheck disable=SC2046  # one argument per pid
        kill -TERM "$PART" $(descendants "$PART") 2>/dev/null || true
        wait "$PART" 2>/dev/null || true
    fi
    while IFS= read -r -d '' cluster; do
        end_cluster "$(dirname "$cluster")" || true
    done < <(find "$SCRATCH" -name cluster.toml -print0)
    # A test that was cut off may have removed its folder and left a process: the scratch folder's name is like no other.
    left=$(naming "$SCRATCH")
    left+=" $(for pid in $left; do descendants "$pid"; done | xargs)"
    # shellcheck disable=SC2086
    [ "$left" = ' ' ] || kill -9 $left 2>/dev/null || true
    rm -rf "$SCRATCH"
}

# naming TEXT: processes (not this one) with TEXT in an argument.
naming() {
    local entry pid
    for entry in /proc/[0-9]*; do
        pid=${entry#/proc/}
        [ "$pid" != $$ ] || continue
        if grep -qsF -- "$1" "$entry/cmdline"; then echo "$pid"; fi
    done | xargs
}
trap cleanup EXIT
trap 'trap "" INT TERM; exit 130' INT TERM

# part NAME COMMAND...: in the background, so that an interruption is heard at once; the first failure ends all.
part() {
    local name=$1 began=$SECONDS code=0
    shift
    step "$name: $*"
    "$@" &
    PART=$!
    wait "$PART" || code=$?
    PART=''
    [ "$code" -eq 0 ] || fail "$name failed after $((SECONDS - began)) s, exit code $code: $*"
    TIMES+=("$(printf '%-14s %5d s' "$name" $((SECONDS - began)))")
}
declare -a TIMES=()

step 'what the tests need'
need_cc
need_cargo
need_ssh
need_python
for component in rustfmt clippy; do
    tool=cargo-${component/rustfmt/fmt}
    command -v "$tool" >/dev/null && "$tool" --version >/dev/null 2>&1 && continue
    need rustup "your system's way to install $component"
    rustup component add "$component"
done

cd "$ROOT"
part formatting cargo fmt --all --check
part lints cargo clippy --workspace --all-targets -- -D warnings
# Not among all targets, since it runs only when asked for.
part system-lints cargo clippy --workspace --test system -- -D warnings
# With the same profile as what is shipped, and always the whole workspace, whose packages agree on features: so everything is compiled once,
# and simulations are quick.
part build cargo build --release
part tests cargo test --workspace --release
# The system tests start clusters through demo/cluster.sh, with RAINSTORM_RUN in a temporary folder: in this one.
demos() {
    "$ROOT/demo/cluster.sh" up 3 >/dev/null && "$ROOT/demo/all.sh" && "$ROOT/demo/cluster.sh" down >/dev/null
}
RAINSTORM_RUN=$SCRATCH/demos RAINSTORM_SUBNET=127.0.39 part demos demos
# Two at a time, each with a cluster of its own: most of a test is waiting.
RAINSTORM_BIN=$BIN TMPDIR=$SCRATCH part system-tests cargo test --workspace --release --test system -- --test-threads=2

step 'all passed'
printf '    %s\n' "${TIMES[@]}"
printf '    %-14s %5d s\n' 'in all' "$SECONDS"
