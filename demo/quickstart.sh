#!/usr/bin/env bash
# From a fresh clone to a proof: builds, starts a local cluster with real SSH, runs grep + replace exactly-once over a body
# of source code, kills a task in mid-run, and compares the output with what grep and sed make of the same file.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

MEGABYTES=${QUICKSTART_MB:-48}

need_cc
need_cargo
need_ssh
if [ -z "${RAINSTORM_BIN:-}" ]; then
    step "building (cargo build --release; some minutes the first time)"
    (cd "$ROOT" && cargo build --release)
fi
"$ROOT/demo/cluster.sh" up
need_cluster

begin "data: $MEGABYTES MB of source code"
dataset text "$MEGABYTES"
load "$DATA"

EXPECTED=$WORK/expected
static_in_capitals "$DATA" >"$EXPECTED"
BASE=$JOB

step "1. at full speed: lines with \`static\`, \`static\` written large; 2 stages of 3 tasks, exactly-once"
JOB=$BASE-fast DEST=demo/$JOB
run_job --console none 2 3 grep static replace 'static STATIC' "$SOURCE" "$DEST" true false
FAST=$(speed)
say "$FAST"
same "output against grep | sed" "$EXPECTED" "$GOT"

step "2. the same, held back until one task has been killed and is back"
JOB=$BASE DEST=demo/$JOB
start_job 2 3 grep static replace 'static STATIC' "$SOURCE" "$DEST" true false "$(held "$DATA")"
await_output "$PATIENCE" $(($(wc -l <"$EXPECTED") / 60))
running_task 's1t*'
OTHERS=$(other_pids "$TASK")
kill_now "$TASK"
BEFORE=$(wc -l <"$OUT")
await_log leader 'TASK_RESTART' "$TASK" "$KILLED_AT"
RESTARTED=$EVENT_AFTER
await_log worker 'TASK_RESTART|REPLAY' "$TASK" "$KILLED_AT"
BACK=$EVENT_AFTER
[ "$(other_pids "$TASK")" = "$OTHERS" ] || fail "other processes than $TASK's were replaced too: $(tasks | tr '\n' ';')"
say "what the logs say of it:"
{
    log_lines leader 'TASK_FAIL|TASK_RESTART' "$TASK"
    log_lines worker 'TASK_RESTART|REPLAY' "$TASK"
} | sort | cut -c 1-180 | sed 's/^/    /'
let_go
end_job "$PATIENCE"

RESTARTS=$(figure restarts)
[ "${RESTARTS:-0}" -ge 1 ] || fail "the summary counts no restart: the kill did not hit, nothing is proved"
[ "$BEFORE" -lt "$(wc -l <"$GOT")" ] || fail "all output was there before the kill: nothing is proved"
same "output in HyDFS against grep | sed" "$EXPECTED" "$GOT"
same "output on the screen against grep | sed" "$EXPECTED" "$OUT"

step "summary"
cat <<TXT
  ran           lines with \`static\` in $MEGABYTES MB of source code, \`static\` -> \`STATIC\`; 2 stages of 3 tasks on $(grep -c '^\[\[node' "$CLUSTER") nodes over
                SSH, exactly-once, three copies of everything
  full speed    $FAST
  killed        $TASK (pid $PID on $NODE) with kill -9, after $BEFORE of $(wc -l <"$GOT") output lines
  recovery      ${RESTARTED} s from the kill to the restart, ${BACK} s until the new process had read its log;
                restarts in all: $RESTARTS; every other task kept its process
TXT
good "  verdict       exactly once: both outputs equal those of grep | sed, line for line"
say
say "The cluster is still up: demo/cluster.sh status, demo/01-filter.sh ... To stop it: demo/cluster.sh down"
