#!/usr/bin/env bash
# An operator that draws random numbers would not say the same twice; a restart must not ask it twice. What it puts out is
# logged, and nothing is lost or doubled. Then without that log, to see what it is for. Checked against the input itself.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

need_cluster
need_python
begin 'scatter.py gives each ticket a random key, which decides the next task; held back, three kills'
BASE=$JOB
DATA=$WORK/tickets
seq -f 'ticket %06.0f' 40000 >"$DATA"
load "$DATA"
bundle demo/operators/scatter.py
JOB=$BASE-logged DEST=demo/$JOB
start_job 2 3 "$BUNDLED" '' identity '' "$SOURCE" "$DEST" true false "$(held "$DATA")"
await_output "$PATIENCE" $(($(wc -l <"$DATA") / 60))
kill_now 's1t0'
await_restart
kill_operator 's1t1'
await_restart
kill_now 's2t*'
await_restart
let_go
end_job "$PATIENCE"
[ "$(figure restarts)" -ge 3 ] || fail "the summary counts $(figure restarts) restarts, there were three kills: nothing is proved"
cut -f2 "$GOT" >"$WORK/got"
same 'tickets against the input' "$DATA" "$WORK/got"
KEYS=$(cut -f1 "$GOT" | sort -u | wc -l)
[ "$KEYS" -gt $(($(wc -l <"$DATA") / 2)) ] || fail "only $KEYS different keys: they were not drawn"
rs rainstormctl verify "$JOB" || fail 'the logs do not prove it'

step 'the same with --productions weak, which asks the operator again'
JOB=$BASE-weak DEST=demo/$JOB
start_job --productions weak 2 3 "$BUNDLED" '' identity '' "$SOURCE" "$DEST" true false "$(held "$DATA")"
await_output "$PATIENCE" $(($(wc -l <"$DATA") / 60))
for task in s1t0 s1t1 s1t2; do
    kill_now "$task"
    await_restart
done
let_go
# It may go wrong in any way. A job that fails, or does not end, is no failure of this demo.
if ! await_end 15; then
    WEAK='the job did not end'
    abandon
    LEADER=''
elif [ "$CODE" -ne 0 ]; then
    WEAK="the job failed, exit code $CODE"
else
    fetch_output
    cut -f2 "$GOT" | sort | uniq -c >"$WORK/counts"
    WEAK=$(awk -v all="$(wc -l <"$DATA")" '$1 > 1 { twice++ } END { printf "%d tickets lost, %d doubled", all - NR, twice }' "$WORK/counts")
fi
await_message 'productions weak'
good "shown: 40000 tickets with random keys, each exactly once after three kills; without the log: $WEAK"
