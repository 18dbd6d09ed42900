#!/usr/bin/env bash
# Runs the numbered demos, one after the other, on the running cluster, and says of each what it showed.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"
# shellcheck source=demo/procs.sh
. "$ROOT/demo/procs.sh"

usage() {
    cat <<'TXT'
usage: demo/all.sh [NUMBER...]    all of them, or these: demo/all.sh 04 9

Of each its last line and how long it took; what it said is kept under run/demo/. Exit code 0: all showed what they
should; 1: one did not, and its words are printed.
TXT
}

LIMIT=900 # seconds for each: one that hangs
PART='' NAME=none

# One that is cut off ends its job by itself.
interrupted() {
    trap '' INT TERM
    if [ -n "$PART" ]; then
        kill -TERM "$PART" 2>/dev/null || true
        wait "$PART" 2>/dev/null || true
    fi
    printf 'interrupted in %s\n' "$NAME" >&2
    exit 130
}
trap interrupted INT TERM

# of_jobs: the cluster's processes that belong to a job.
of_jobs() {
    local what
    scan_cluster "$RUN"
    for what in leader worker operator ssh; do pids_of '*' "$what"; done | sort
}

# left_over BEFORE: what was not there before and does not end, pids in one line.
left_over() {
    local deadline=$((SECONDS + PATIENCE)) new # the SSH connections of a leader that was killed end by themselves after 10 s
    while new=$(comm -13 <(echo "$1") <(of_jobs) | xargs) && [ -n "$new" ] && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.1; done
    echo "$new"
}

declare -a CHOSEN=()
for arg in "$@"; do
    case $arg in
    -h | --help) usage && exit 0 ;;
    [0-9] | [0-9][0-9]) CHOSEN+=("$ROOT/demo/$(printf '%02d' "$((10#$arg))")"-*.sh) ;;
    *) usage >&2 && exit 2 ;;
    esac
done
[ ${#CHOSEN[@]} -gt 0 ] || CHOSEN=("$ROOT"/demo/[0-9][0-9]-*.sh)
for script in "${CHOSEN[@]}"; do [ -x "$script" ] || fail "there is no demo $(basename "$script")"; done

need_cluster
mkdir -p "$RUN/demo"
FAILED=()
for script in "${CHOSEN[@]}"; do
    NAME=$(basename "$script" .sh) SAID=$RUN/demo/$(basename "$script" .sh).said
    before=$(of_jobs) began=$EPOCHREALTIME code=0
    # In the background, so that an interruption is heard at once.
    timeout "$LIMIT" "$script" >"$SAID" 2>&1 </dev/null &
    PART=$!
    wait "$PART" || code=$?
    PART=''
    left=$(left_over "$before")
    if [ "$code" -eq 0 ] && [ -n "$left" ]; then code="0, but it left processes: $left"; fi
    if [ "$code" = 0 ]; then
        good "$(printf '%-14s %5.1f s  %s' "$NAME" "$(seconds_since "$began")" "$(tail -n 1 "$SAID")")"
    else
        FAILED+=("$NAME")
        sed 's/^/    /' "$SAID"
        [ "$code" != 124 ] || code="124: cut off after $LIMIT s"
        printf '%s%-14s %5.1f s  FAILED%s, exit code %s\n' "$RED" "$NAME" "$(seconds_since "$began")" "$PLAIN" "$code"
    fi
done
[ ${#FAILED[@]} -eq 0 ] || fail "${#FAILED[@]} of ${#CHOSEN[@]} failed: ${FAILED[*]}"
good "all ${#CHOSEN[@]} demos showed what they should, in $SECONDS s"
