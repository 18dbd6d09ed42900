#!/usr/bin/env bash
# The logs of a kill: `tail -f` on the machine while it happens, and `rainstormctl grep` over all machines afterwards. What is
# shown is what must be there: each event of the kill, once, in order.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

need_cluster
begin 'a job, a kill, and what the logs say of it'
dataset text 24
load "$DATA"
tail -q -n 0 -F "$RUN"/*/log/worker.log "$RUN"/*/log/leader.log 2>/dev/null >"$WORK/tailed" &
TAIL=$!
trap 'kill "$TAIL" 2>/dev/null || true; abandon' EXIT
start_job 1 2 grep static "$SOURCE" "$DEST" true false "$(pace 12 "$DATA")"
await_output 60 1000
kill_now s1t0
PID_BEFORE=$PID
await_restart
end_job 60
kill "$TAIL" 2>/dev/null || true

step "tail -f $RUN/*/log/worker.log $RUN/*/log/leader.log | grep 'task=s1t0 ' saw"
grep -E " job=$JOB .*task=s1t0 " "$WORK/tailed" | grep -vE ' (RATE|FIRST_OUTPUT) ' | sort | tee "$WORK/seen" | sed 's/^/    /'
step "rainstormctl grep -E 'TASK_FAIL|TASK_RESTART|REPLAY' | grep job=$JOB: from any machine"
rs rainstormctl grep -h -E "(TASK_FAIL|TASK_RESTART|REPLAY) job=$JOB " 2>"$WORK/counts" | tee "$WORK/found" | sed 's/^/    /'
sed 's/^/    /' "$WORK/counts"
for event in "TASK_START .*epoch=1 .*pid=$PID_BEFORE" 'TASK_FAIL .*epoch=1 ' 'TASK_RESTART .*epoch=2 .*from=' 'TASK_RESTART .*epoch=2 .*pid=' 'REPLAY .*epoch=2 '; do
    grep -qE "$event" "$WORK/seen" || fail "no $event of s1t0 in the logs"
done
for event in TASK_FAIL TASK_RESTART REPLAY; do
    grep -q " $event " "$WORK/found" || fail "rainstormctl grep does not find $event"
done
good "shown: the kill of s1t0 in the logs of both machines, as it happened and afterwards ($(tail -n 1 "$WORK/counts"))"
