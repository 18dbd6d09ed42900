#!/usr/bin/env bash
# All processes of one node die at once in the middle of an exactly-once job: its sshd, membership and storage daemons and
# its tasks. The tasks move to the other nodes, and the output is right. Checked against grep and sed.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

need_cluster
[ "$(grep -c '^\[\[node' "$CLUSTER")" -ge 3 ] || fail 'with fewer than three nodes there is no majority left for writing; type: demo/cluster.sh down && demo/cluster.sh up 3 --fresh'
begin 'grep + replace, held back, and one node lost'
dataset text 24
load "$DATA"
static_in_capitals "$DATA" >"$WORK/expected"
start_job 2 3 grep static replace 'static STATIC' "$SOURCE" "$DEST" true false "$(held "$DATA")"
await_output "$PATIENCE" $(($(wc -l <"$WORK/expected") / 60))

# Not the first node: the leader runs there, and it is the tasks' and the storage's loss that is shown.
running_task 's1t*' '' n1
VICTIM=$NODE
LOST=$(tasks | awk -v node="$VICTIM" '$3 == node { print $1 }' | xargs)
BEFORE=$(wc -l <"$OUT")
KILLED_AT=$EPOCHREALTIME
# Whatever happens now, the cluster is whole again afterwards.
trap 'abandon; "$ROOT/demo/cluster.sh" start-node "$VICTIM" || true' EXIT
"$ROOT/demo/cluster.sh" kill-node "$VICTIM"
job_runs || fail 'the job was over when the node was killed: nothing is proved'
step "$VICTIM is gone after $BEFORE output lines, and with it $LOST"
for task in $LOST; do
    await_log worker 'TASK_RESTART|REPLAY' "$task" "$KILLED_AT"
    say "$task is back, $EVENT_AFTER s after the kill"
done
[ -z "$(tasks | awk -v node="$VICTIM" '$3 == node')" ] || fail "tasks are still said to be on $VICTIM: $(tasks | tr '\n' ';')"
let_go
end_job "$PATIENCE"
[ "$(figure restarts)" -ge "$(wc -w <<<"$LOST")" ] || fail "the summary counts $(figure restarts) restarts, $(wc -w <<<"$LOST") tasks were lost"
[ "$BEFORE" -lt "$(wc -l <"$GOT")" ] || fail 'all output was there before the kill: nothing is proved'

same 'output in HyDFS against grep | sed' "$WORK/expected" "$GOT"
same 'output on the screen against grep | sed' "$WORK/expected" "$OUT"
"$ROOT/demo/cluster.sh" start-node "$VICTIM"
trap - EXIT
good "shown: a whole node lost in mid-run; its tasks ($LOST) went on elsewhere, every output line is there once"
