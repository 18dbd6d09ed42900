#!/usr/bin/env bash
# A stage that counts gains a task and loses it again while it runs (`--scale-stateful`): whole key groups move with their counts.
# A counting task is killed with -9 in between. Every key's counts must be 1, 2, 3, ... each once. Checked against awk.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

SLOW=700 FAST=2700 LOW=400 HIGH=1000

need_cluster
begin "a running count of 5,000 words, one task per stage, LW $LOW, HW $HIGH; INPUT_RATE $SLOW, $FAST and $SLOW"
seq $((40 * FAST)) | awk '{ print "word" $1 * 7919 % 5000, $1 }' >"$WORK/input"
SOURCE=data/$JOB
rs hydfs create "$WORK/input" "$SOURCE/in" >&2 || fail 'cannot load the lines into HyDFS'
awk '{ print $1 "\t" ++n[$1] }' "$WORK/input" | sort >"$WORK/expected"

start_job --node n1 --scale-stateful --max-tasks 3 --console none --progress never 2 1 identity '--key word:0' count '' "$SOURCE" "$DEST" true true "$SLOW" "$LOW" "$HIGH"
running_task 's2t0'

# moved WORD: waits until a change of stage 2 is over, and says how many keys moved.
moved() {
    local deadline=$((SECONDS + PATIENCE))
    until grep -F "job=$JOB " "$RUN/n1/log/leader.log" | grep -qE " $1 .*stage=2 "; do
        job_runs || fail "the job ended before a $1 of stage 2"
        [ "$SECONDS" -lt "$deadline" ] || fail "no $1 of stage 2 within $PATIENCE s"
        sleep 0.1
    done
    until handed_over | grep -q .; do
        [ "$SECONDS" -lt "$deadline" ] || fail "nothing was handed over within $PATIENCE s"
        sleep 0.1
    done
    handed_over | sed 's/^/    /'
}
handed_over() { cat "$RUN"/n*/log/worker.log | grep -F "job=$JOB " | grep -E ' HAND_OVER .*keys=[1-9]' | sort | cut -d' ' -f1,3-; }

rs rainstormctl set_rate "$JOB" "$FAST" >/dev/null
say "$FAST tuples/s in"
moved SCALE_UP
kill_now "$TASK"
await_log leader TASK_RESTART "$TASK" "$KILLED_AT"
say "$TASK, which counts, killed and restarted $EVENT_AFTER s after"
before=$(handed_over | wc -l)
rs rainstormctl set_rate "$JOB" "$SLOW" >/dev/null
say "$SLOW tuples/s in"
moved SCALE_DOWN
rs rainstormctl set_rate "$JOB" 0 >/dev/null
end_job "$PATIENCE"
[ "$(handed_over | wc -l)" -gt "$before" ] || fail 'nothing was handed over when the stage lost its task'
[ "$(figure restarts)" -ge 1 ] || fail 'nothing was restarted: nothing is proved'
sort -o "$GOT" "$GOT"
same 'counts in HyDFS against awk' "$WORK/expected" "$GOT"
rs rainstormctl verify "$JOB" || fail 'the logs do not prove it'
rs hydfs rm "$SOURCE/in" >/dev/null 2>&1 || true
# A restart lives through its hand-overs again.
KEYS=$(handed_over | sed -E 's/.* task=([^ ]*) .* version=([0-9]*) .* keys=([0-9]*).*/\1 \2 \3/' | sort -u | awk '{ n += $3 } END { print n }')
good "shown: $(figure scale_events) changes, $KEYS keys moved with their counts, a counting task killed; all $(wc -l <"$GOT") counts exactly once"
