#!/usr/bin/env bash
# All tests: formatting, lints, unit and property tests and simulations, then the real programs over real SSH. Closes with
# `N passed, N failed, N skipped`, and before that names what was skipped and why.
set -euo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=demo/procs.sh
. "$ROOT/demo/procs.sh"
# shellcheck source=demo/tally.sh
. "$ROOT/demo/tally.sh"

# Everything that the tests write is in here, their clusters included, and goes at the end.
SCRATCH=$(realpath "$(mktemp -d "${TMPDIR:-/tmp}/rainstorm-test.XXXXXX")")
PART=''
# Tests that cannot do their work here name themselves and the reason in this file: what a passing test prints is not shown.
export RAINSTORM_SKIPPED=$SCRATCH/skipped
: >"$RAINSTORM_SKIPPED"

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

# part NAME COMMAND...: in the background, so that an interruption is heard at once. What it says is shown as it comes, and counted.
# A part that fails does not keep the next ones from telling what they have to tell.
declare -a TIMES=() FAILED=()
part() {
    local name=$1 began=$SECONDS code=0 said=$SCRATCH/$1.said show
    shift
    step "$name: $*"
    : >"$said"
    "$@" >"$said" &
    PART=$!
    tail -n +1 -s 0.2 -f --pid="$PART" "$said" &
    show=$!
    wait "$PART" || code=$?
    PART=''
    wait "$show" || true
    tally "$said" "$code"
    if [ "$code" -ne 0 ]; then
        FAILED+=("$name")
        printf '%serror:%s %s failed after %d s, exit code %d: %s\n' "$RED" "$PLAIN" "$name" $((SECONDS - began)) "$code" "$*" >&2
    fi
    TIMES+=("$(printf '%-14s %5d s' "$name" $((SECONDS - began)))")
    return "$code"
}

# The end, whatever came before it. The last line is for people and for scripts.
close() {
    tally_skipped "$RAINSTORM_SKIPPED"
    step "$([ ${#FAILED[@]} -eq 0 ] && echo 'all passed' || echo "failed: ${FAILED[*]}")"
    printf '    %s\n' "${TIMES[@]}"
    printf '    %-14s %5d s\n' 'in all' "$SECONDS"
    tally_close
}

step 'what the tests need'
need_cc
need_cargo
need_ssh
need_networks
need_python
for component in rustfmt clippy; do
    tool=cargo-${component/rustfmt/fmt}
    command -v "$tool" >/dev/null && "$tool" --version >/dev/null 2>&1 && continue
    need rustup "your system's way to install $component"
    rustup component add "$component"
done

cd "$ROOT"
part formatting cargo fmt --all --check || true
part lints cargo clippy --workspace --all-targets -- -D warnings || true
# Links that lead nowhere, tags that are none. These are programs: their private parts are documented too, and may be linked to.
RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' part docs cargo doc --workspace --no-deps --document-private-items || true
scripts() { git ls-files -z -- '*.sh' .ci/run | xargs -0 shellcheck -x; }
if have shellcheck || apt_install shellcheck; then
    part scripts scripts || true
else
    SKIPPED+=("scripts: shellcheck is not installed; type: $(install_line shellcheck ShellCheck shellcheck shellcheck)")
fi
# Not among all targets, since it runs only when asked for.
part system-lints cargo clippy --workspace --test system -- -D warnings || true
# With the same profile as what is shipped, and always the whole workspace, whose packages agree on features: so everything is compiled once,
# and simulations are quick. Without the programs there is nothing to test.
part build cargo build --release --workspace || { close && exit 1; }
part tests cargo test --workspace --release --no-fail-fast || true
# The system tests start clusters through demo/cluster.sh, with RAINSTORM_RUN in a temporary folder: in this one.
demos() {
    "$ROOT/demo/cluster.sh" up 3 >/dev/null && "$ROOT/demo/all.sh" && "$ROOT/demo/cluster.sh" down >/dev/null
}
RAINSTORM_RUN=$SCRATCH/demos RAINSTORM_SUBNET=127.0.39 part demos demos || true
# Two at a time, each with a cluster of its own: most of a test is waiting.
RAINSTORM_BIN=$BIN TMPDIR=$SCRATCH part system-tests cargo test --workspace --release --test system -- --test-threads=2 || true
close
[ ${#FAILED[@]} -eq 0 ]
