#!/usr/bin/env bash
# kill -9 of the leader in mid-job. Its workers go by themselves; `leader --resume`, on another node, takes the job up from
# what is in HyDFS, and the counts come out as if nothing had happened. Checked against awk.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

need_cluster
begin 'a running count by first word, held back, and its leader killed'
dataset text 24
load "$DATA"
counted_by_first_word "$DATA" >"$WORK/expected"
start_job --standbys 0 2 3 grep '--key word:0 static' count '' "$SOURCE" "$DEST" true false "$(held "$DATA")"
await_output "$PATIENCE" $(($(wc -l <"$WORK/expected") / 60))
WORKERS=$(tasks | awk '{ print $4 }' | xargs)
[ "$(wc -w <<<"$WORKERS")" -ge 7 ] || fail "only these workers were seen: $WORKERS"
disown "$LEADER" # the shell is not to report its death
KILLED_AT=$EPOCHREALTIME
kill -9 "$LEADER" || fail 'the leader had ended: nothing is proved'
while job_runs; do sleep 0.01; done
LEADER=''
# The last line may have been cut off.
awk 'NR > 1 { print last } { last = $0 }' "$OUT" >"$WORK/before"
[ "$(wc -l <"$WORK/before")" -lt "$(wc -l <"$WORK/expected")" ] || fail 'all output was there before the kill: nothing is proved'
step "kill -9 of the leader after $(wc -l <"$WORK/before") of $(wc -l <"$WORK/expected") output lines"

deadline=$((SECONDS + PATIENCE))
for pid in $WORKERS; do
    while kill -0 "$pid" 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || fail "worker $pid still runs $PATIENCE s after its leader's death"
        sleep 0.02
    done
done
say "$(wc -w <<<"$WORKERS") workers, none left $(seconds_since "$KILLED_AT") s after the kill; rainstormctl jobs says: $(rs rainstormctl jobs 2>&1)"

start_leader --node n2 --resume "$JOB"
await_output "$PATIENCE"
let_go
end_job "$PATIENCE"
same 'updates in HyDFS against awk' "$WORK/expected" "$GOT"
same 'updates on the screen of the second leader against awk' "$WORK/expected" "$OUT"
sort -o "$WORK/before" "$WORK/before"
sort -o "$WORK/expected" "$WORK/expected"
[ -z "$(comm -23 "$WORK/before" "$WORK/expected")" ] || fail 'the first leader had printed what is not in the output'
rs rainstormctl verify "$JOB" || fail 'the logs do not prove it'
good "shown: the leader killed after $(wc -l <"$WORK/before") output lines; taken up on n2, all $(wc -l <"$GOT") counts exact"
