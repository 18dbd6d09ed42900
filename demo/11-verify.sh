#!/usr/bin/env bash
# The logs that made a job exact also prove it: `rainstormctl verify` replays them, and `rainstormctl log` shows them. A
# forged record is found. Checked against awk, and wc for what the proof speaks of.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

need_cluster
begin 'a running count by first word, held back, and three kills'
dataset text 8
load "$DATA"
counted_by_first_word "$DATA" >"$WORK/expected"
start_job 2 3 grep '--key word:0 static' count '' "$SOURCE" "$DEST" true false "$(held "$DATA")"
await_output "$PATIENCE" $(($(wc -l <"$WORK/expected") / 60))
for task in 's0t*' 's1t*' 's2t*'; do
    kill_now "$task"
    await_restart
done
let_go
end_job "$PATIENCE"
same 'updates against awk' "$WORK/expected" "$GOT"

step "rainstormctl verify $JOB"
VERDICT=$(rs rainstormctl verify "$JOB") || fail 'the logs do not prove it'
say "    $VERDICT"
LINES_IN=$(grep -oE '[0-9,]+ lines' <<<"$VERDICT" | tr -cd 0-9)
RESTARTS=$(grep -oE '[0-9,]+ restarts' <<<"$VERDICT" | tr -cd 0-9)
BYTES=$(grep -oE '[0-9,]+ bytes' <<<"$VERDICT" | tr -cd 0-9)
[ "$LINES_IN" = "$(wc -l <"$DATA")" ] || fail "it speaks of $LINES_IN lines, wc counts $(wc -l <"$DATA")"
[ "$RESTARTS" = "$(figure restarts)" ] || fail "it speaks of $RESTARTS restarts, the summary of $(figure restarts)"
[ "$BYTES" = "$(wc -c <"$GOT")" ] || fail "it speaks of $BYTES bytes of output, wc counts $(wc -c <"$GOT")"

step "rainstormctl log $JOB $TASK: around its restart, and its end"
rs rainstormctl log "$JOB" "$TASK" >"$WORK/log"
{
    grep -B 3 -A 2 '^BEGAN .*epoch=2' "$WORK/log" || fail "the log of $TASK does not say that process 2 began"
    echo ...
    tail -n 2 "$WORK/log"
} | cut -c 1-150 | sed 's/^/    /'

step "and if one record of it were there once more, by somebody else's hand"
FORGED=$(grep -oE '^ORDER at=[0-9]+' "$WORK/log" | sed -n '10,11s/.*=//p' | xargs)
rs hydfs get "jobs/$JOB/$TASK.log" "$WORK/stored" >&2
head -c "${FORGED#* }" "$WORK/stored" | tail -c $((${FORGED#* } - ${FORGED% *})) >"$WORK/forged"
rs hydfs append --system "$WORK/forged" "jobs/$JOB/$TASK.log" >/dev/null
CODE=0
rs rainstormctl verify "$JOB" >"$WORK/verdict" 2>&1 || CODE=$?
cut -c 1-150 "$WORK/verdict" | sed 's/^/    /'
[ "$CODE" -eq 1 ] || fail "with a forged record in a log verify gave exit code $CODE, it should be 1"
good "shown: $LINES_IN lines and $RESTARTS restarts, proved from the logs of 9 tasks ($(wc -l <"$WORK/log") records of $TASK's alone); a forged record is found"
