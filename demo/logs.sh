#!/usr/bin/env bash
# The logs of a scale-up and of a kill: `tail -f` on the machines while it happens, and `rainstormctl grep` over all of them
# afterwards. What is shown is what must be there: each event of both.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

need_cluster
begin 'a job, a scale-up, a kill, and what the logs say of them'
dataset text 24
load "$DATA"
# Those that are not there yet come to be with the first job.
LOGS=()
for folder in "$RUN"/*/log; do LOGS+=("$folder/worker.log" "$folder/leader.log"); done
tail -q -n 0 -F "${LOGS[@]}" 2>/dev/null >"$WORK/tailed" &
TAIL=$!
trap 'kill "$TAIL" 2>/dev/null || true; abandon' EXIT
# Two tasks for what takes four, by HW; there may be three.
RATE=$(held "$DATA")
start_job --max-tasks 3 1 2 grep static "$SOURCE" "$DEST" true true "$RATE" $((RATE / 100)) $((RATE / 4))
await_output "$PATIENCE" 100
deadline=$((SECONDS + PATIENCE))
until grep -q " SCALED job=$JOB " "$WORK/tailed"; do
    job_runs || fail 'the job ended before it was scaled'
    [ "$SECONDS" -lt "$deadline" ] || fail 'the stage was not scaled within two minutes'
    sleep 0.1
done
kill_now s1t0
PID_BEFORE=$PID
await_restart
let_go
end_job "$PATIENCE"
kill "$TAIL" 2>/dev/null || true

step "tail -f $RUN/*/log/worker.log $RUN/*/log/leader.log | grep -E 'SCALE|ROUTE|task=s1t2 ' saw"
grep -E " job=$JOB " "$WORK/tailed" | grep -E ' (SCALE_UP|SCALED|ROUTE) |task=s1t2 ' | grep -vE ' (RATE|FIRST_OUTPUT) ' | sort | tee "$WORK/scaled" | sed 's/^/    /'
for event in 'SCALE_UP .*stage=1 .*task=s1t2 ' 'TASK_START .*task=s1t2 .*epoch=1 ' 'ROUTE .*task=s0t[01] ' 'SCALED .*stage=1 '; do
    grep -qE "$event" "$WORK/scaled" || fail "no $event in the logs"
done
step "tail -f $RUN/*/log/worker.log $RUN/*/log/leader.log | grep 'task=s1t0 ' saw"
grep -E " job=$JOB .*task=s1t0 " "$WORK/tailed" | grep -vE ' (RATE|FIRST_OUTPUT) ' | sort | tee "$WORK/seen" | sed 's/^/    /'
step "rainstormctl grep -E 'SCALE_UP|TASK_FAIL|TASK_RESTART|REPLAY' | grep job=$JOB: from any machine"
rs rainstormctl grep -h -E "(SCALE_UP|TASK_FAIL|TASK_RESTART|REPLAY) job=$JOB " 2>"$WORK/counts" | tee "$WORK/found" | sed 's/^/    /'
sed 's/^/    /' "$WORK/counts"
for event in "TASK_START .*epoch=1 .*pid=$PID_BEFORE" 'TASK_FAIL .*epoch=1 ' 'TASK_RESTART .*epoch=2 .*from=' 'TASK_RESTART .*epoch=2 .*pid=' 'REPLAY .*epoch=2 '; do
    grep -qE "$event" "$WORK/seen" || fail "no $event of s1t0 in the logs"
done
for event in SCALE_UP TASK_FAIL TASK_RESTART REPLAY; do
    grep -q " $event " "$WORK/found" || fail "rainstormctl grep does not find $event"
done
good "shown: a scale-up and the kill of s1t0 in the logs of the machines, as it happened and afterwards ($(tail -n 1 "$WORK/counts"))"
