#!/usr/bin/env bash
# kill -9 of a source, of a filter and of a counting task, one after the other, in one exactly-once job. The counts must
# come out as if nothing had happened: the counting task's state is what is at stake. Checked against awk.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

need_cluster
begin 'a running count by first word, held back, and three kills'
dataset text 24
load "$DATA"
counted_by_first_word "$DATA" >"$WORK/expected"
start_job 2 3 grep '--key word:0 static' count '' "$SOURCE" "$DEST" true false "$(held "$DATA")"
await_output "$PATIENCE" $(($(wc -l <"$WORK/expected") / 60))
for task in 's0t*' 's1t*' 's2t*'; do
    running_task "$task"
    others=$(other_pids "$TASK")
    kill_now "$TASK"
    old=$PID
    await_log leader TASK_RESTART "$TASK" "$KILLED_AT"
    say "restarted $EVENT_AFTER s after the kill"
    running_task "$TASK" "$old"
    say "$TASK is now pid $PID on $NODE"
    [ "$(other_pids "$TASK")" = "$others" ] || fail "other processes than $TASK's were replaced too"
done
let_go
end_job "$PATIENCE"
[ "$(figure restarts)" -ge 3 ] || fail "the summary counts $(figure restarts) restarts, there were three kills: nothing is proved"

same 'updates in HyDFS against awk' "$WORK/expected" "$GOT"
same 'updates on the screen against awk' "$WORK/expected" "$OUT"
good "shown: a source, a filter and a counting task killed in mid-run, $(figure restarts) restarts, every count exact"
