# shellcheck shell=bash
# What the demos share: data sets, a job that is watched while it runs, and the comparison with an independent oracle.

# shellcheck disable=SC2034  # TASK, KILLED_AT, EVENT_AFTER, ...: results are left in variables for the scripts
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export RAINSTORM_CLUSTER=$CLUSTER
export LC_ALL=C # bytes, not characters: the data is not all UTF-8, and sort must mean the same everywhere

# rs PROGRAM ARGS...: one of RainStorm's programs.
rs() {
    local program=$1
    shift
    "$BIN/$program" "$@"
}

need_cluster() {
    need_programs
    "$ROOT/demo/cluster.sh" status >/dev/null || {
        "$ROOT/demo/cluster.sh" status || true
        fail "this needs the local cluster with every node up; type: demo/cluster.sh up"
    }
}

# begin TITLE: a new job name, a folder for what it leaves, and an end that leaves no job running.
begin() {
    JOB=$(basename "$0" .sh)-$(date +%H%M%S)-$$
    DEST=demo/$JOB
    WORK=$RUN/demo/$JOB
    LEADER=''
    mkdir -p "$WORK"
    trap abandon EXIT
    trap 'trap "" INT TERM; exit 130' INT TERM
    step "$1"
}

# A request and then force, for a script that ends while its job runs.
abandon() {
    [ -n "$LEADER" ] && kill -0 "$LEADER" 2>/dev/null || return 0
    kill -TERM "$LEADER" 2>/dev/null || true
    local deadline=$((SECONDS + 5))
    while [ "$SECONDS" -lt "$deadline" ]; do
        kill -0 "$LEADER" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -9 "$LEADER" 2>/dev/null || true
}

# dataset KIND MB: made once, kept under run/datasets. Sets DATA.
dataset() {
    DATA=$RUN/datasets/$1-$2MB
    [ -s "$DATA" ] || {
        mkdir -p "$RUN/datasets"
        say "making $2 MB of $1"
        "$ROOT/datasets/make.sh" "$1" "$2" "$DATA"
    }
}

# load LOCAL: into a HyDFS folder of its own, named after what is in it; done once. Sets SOURCE (the folder) and
# FILE (the name in the tuples' keys).
load() {
    local began=$EPOCHREALTIME
    SOURCE=data/$(basename "$1")-$(cksum <"$1" | cut -d' ' -f1)
    FILE=$SOURCE/$(basename "$1")
    if rs hydfs stat "$FILE" >/dev/null 2>&1; then
        if rs hydfs cat "$FILE" | cmp -s - "$1"; then
            say "already in HyDFS: $FILE"
            return 0
        fi
        rs hydfs rm "$FILE" # an earlier load was cut short
    fi
    rs hydfs create "$1" "$FILE" >&2 || fail "cannot load $1 into HyDFS"
    say "loaded into HyDFS: $FILE ($((($(stat -c %s "$1") + 500000) / 1000000)) MB, three copies, $(seconds_since "$began") s)"
}

# seconds_between FROM TO: two values of EPOCHREALTIME, as seconds with two decimals.
seconds_between() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", b - a }'; }
seconds_since() { seconds_between "$1" "$EPOCHREALTIME"; }

# typed ARGS...: as one would type them.
typed() {
    local arg
    for arg in "$@"; do
        case $arg in
        '' | *[!A-Za-z0-9_./:=-]*) if [[ $arg == *"'"* && $arg != *[\"\$\`\\]* ]]; then arg="\"$arg\""; else arg=${arg@Q}; fi ;;
        esac
        printf '%s ' "$arg"
    done
}

# start_leader ARGS...: in the background; its standard output in $OUT, its messages in $ERR and shown, indented.
start_leader() {
    OUT=$WORK/$JOB.out ERR=$WORK/$JOB.err SUMMARY=$WORK/$JOB.json
    rm -f "$SUMMARY"
    : >"$OUT" # it is looked at before the leader has opened it
    say "${DIM}\$ leader $(typed "$@")$PLAIN"
    # Not through `rs`: $! must be the leader itself.
    "$BIN/leader" --summary "$SUMMARY" "$@" >"$OUT" 2> >(tee "$ERR" | sed -u 's/^/    | /' >&2) &
    LEADER=$!
}

# start_job ARGS...: the leader of a new job.
start_job() { start_leader --job "$JOB" "$@"; }

job_runs() { [ -n "$LEADER" ] && kill -0 "$LEADER" 2>/dev/null; }

# await_output SECONDS [LINES]: until the job has given that many output tuples; fails when it ends or takes longer.
await_output() {
    local deadline=$((SECONDS + $1)) wanted=${2:-1}
    until [ "$(wc -l <"$OUT")" -ge "$wanted" ]; do
        job_runs || fail "the job ended before it had given $wanted lines of output (its messages are above)"
        [ "$SECONDS" -lt "$deadline" ] || fail "only $(wc -l <"$OUT") of $wanted lines of output within $1 s"
        sleep 0.02
    done
}

# await_end SECONDS: waits for the leader's end. Sets CODE, its exit code. 1: it still runs.
await_end() {
    local deadline=$((SECONDS + $1))
    while job_runs; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.05
    done
    CODE=0
    wait "$LEADER" || CODE=$?
    LEADER=''
}

# end_job SECONDS: waits for its end and requires success. Sets GOT, a copy of its output in HyDFS.
end_job() {
    await_end "$1" || fail "the job still runs after $1 s"
    [ "$CODE" -eq 0 ] || fail "the job failed, exit code $CODE (its messages are above)"
    [ -s "$SUMMARY" ] || fail "the job left no summary"
    fetch_output
}

fetch_output() {
    GOT=$WORK/$JOB.tsv
    rs hydfs get "$DEST" "$GOT" >&2 || fail "cannot fetch the job's output $DEST"
}

# await_message PATTERN: a line of the leader's messages; they pass through a pipe and may come after its end.
await_message() {
    local deadline=$((SECONDS + PATIENCE))
    until grep -qE -- "$1" "$ERR"; do
        [ "$SECONDS" -lt "$deadline" ] || fail "the leader did not say \`$1\`"
        sleep 0.05
    done
}

# run_job ARGS...: from start to end.
run_job() {
    start_job "$@"
    end_job 300
}

# figure NAME: a number of the run's summary (the first of that name: the job's own, not a stage's).
figure() { tr -d '\n' <"$SUMMARY" | grep -oE "\"$1\" *: *[0-9.eE+-]+" | head -n 1 | sed 's/.*: *//'; }

# speed: one line from the summary.
speed() {
    awk -v lines="$(figure lines_in)" -v out="$(figure lines_out)" -v s="$(figure seconds)" -v start="$(figure startup_seconds)" \
        'BEGIN { printf "%d lines in, %d out, %.2f s: %.2f million lines/s (and %.2f s to start)", lines, out, s, lines / (s > 0 ? s : 1) / 1e6, start }'
}

# tasks: `task stage node pid state` for each task of the job.
tasks() {
    rs rainstormctl list_tasks "$JOB" --json 2>/dev/null | tr -d '\n' | sed 's/}[^{]*/}\n/g' | awk '
        function field(name) {
            if (!match($0, "\"" name "\" *: *(\"[^\"]*\"|[^,}\"]*)")) return ""
            text = substr($0, RSTART, RLENGTH); sub(/^"[^"]*" *: */, "", text); gsub(/"| +$/, "", text); return text
        }
        /"task"/ { print field("task"), field("stage"), field("node"), field("pid"), field("state") }'
}

# running_task PATTERN [NOT_PID [NOT_NODE]]: waits for a task that runs (`s1t0`, or a pattern such as `s1t*`), under another
# pid and on another node than these; sets TASK, NODE and PID.
running_task() {
    local deadline=$((SECONDS + PATIENCE)) _ state
    while [ "$SECONDS" -lt "$deadline" ]; do
        while read -r TASK _ NODE PID state; do
            # shellcheck disable=SC2053  # a pattern
            if [[ $TASK == $1 && $NODE != "${3:-}" && $PID != "${2:-}" && $PID =~ ^[1-9][0-9]*$ && $state == [Rr]unning ]]; then return 0; fi
        done < <(tasks)
        job_runs || fail "the job ended before a task $1 could be found running"
        sleep 0.05
    done
    fail "no task $1 seen running for $PATIENCE s; rainstormctl list_tasks says: $(tasks | tr '\n' ';')"
}

# kill_now PATTERN [NOT_PID]: kill -9 of one running task's process in mid-run. Sets TASK, NODE, PID and KILLED_AT.
kill_now() {
    running_task "$@"
    local lines
    lines=$(wc -l <"$OUT")
    KILLED_AT=$EPOCHREALTIME
    # The nodes are on this machine; `rainstormctl kill_task NODE PID` does the same over SSH.
    kill -9 "$PID" || fail "cannot kill $TASK (pid $PID on $NODE)"
    job_runs || fail "the job was over when $TASK was killed: nothing is proved"
    step "kill -9 of $TASK (pid $PID on $NODE) after $lines output lines"
}

# kill_operator PATTERN [NOT_PID]: kill -9 of the operator's own process below a worker that goes on. Sets TASK, NODE,
# PID (the worker's), OPERATOR and KILLED_AT.
kill_operator() {
    local deadline=$((SECONDS + PATIENCE)) lines
    OPERATOR=''
    until [ -n "$OPERATOR" ]; do
        [ "$SECONDS" -lt "$deadline" ] || fail "no task $1 has an operator process"
        running_task "$@"
        OPERATOR=$(cat "/proc/$PID/task/"*/children 2>/dev/null | awk '{ print $1; exit }') || true
    done
    lines=$(wc -l <"$OUT")
    KILLED_AT=$EPOCHREALTIME
    kill -9 "$OPERATOR" || fail "cannot kill the operator of $TASK (pid $OPERATOR on $NODE)"
    job_runs || fail "the job was over when the operator of $TASK was killed: nothing is proved"
    step "kill -9 of the operator of $TASK (pid $OPERATOR, its worker is $PID on $NODE) after $lines output lines"
}

# await_restart: of the task killed last.
await_restart() {
    local old=$PID
    await_log leader TASK_RESTART "$TASK" "$KILLED_AT"
    running_task "$TASK" "$old"
    say "$TASK restarted $EVENT_AFTER s after the kill, now pid $PID on $NODE"
}

# other_pids TASK: which process each other task is; the same before and after means that nobody else restarted.
other_pids() { tasks | awk -v task="$1" '$1 != task { print $1, $4 }' | sort; }

# log_lines LOG WORDS [TASK]: this job's lines with one of the EVENT words, of all nodes, in the order of time.
log_lines() {
    grep -hE " ($2)( |$)" "$RUN"/*/log/"$1".log 2>/dev/null | grep -E " job=$JOB( |$)" |
        if [ -n "${3:-}" ]; then grep -E " task=$3( |$)"; else cat; fi | sort || true
}

# await_log LOG WORDS TASK SINCE: waits for such a line later than SINCE (EPOCHREALTIME). Sets EVENT_AFTER, seconds.
await_log() {
    local deadline=$((SECONDS + PATIENCE)) line at
    while [ "$SECONDS" -lt "$deadline" ]; do
        while read -r line; do
            at=$(date -d "${line%% *}" +%s.%6N) || continue
            if awk -v a="$at" -v b="$4" 'BEGIN { exit !(a > b) }'; then
                EVENT_AFTER=$(seconds_between "$4" "$at")
                return 0
            fi
        done < <(log_lines "$1" "$2" "$3")
        sleep 0.05
    done
    fail "no $2 of $3 in the $1 logs within $PATIENCE s"
}

# same WHAT EXPECTED GOT: equal as sorted multisets of lines, or the script fails and shows where not.
same() {
    sort -o "$2.sorted" "$2"
    sort -o "$3.sorted" "$3"
    if ! cmp -s "$2.sorted" "$3.sorted"; then
        say "missing (first 3 of $(comm -23 "$2.sorted" "$3.sorted" | wc -l)):"
        comm -23 "$2.sorted" "$3.sorted" | sed -n 1,3p | cat -v
        say "too many (first 3 of $(comm -13 "$2.sorted" "$3.sorted" | wc -l)):"
        comm -13 "$2.sorted" "$3.sorted" | sed -n 1,3p | cat -v
        fail "$1: WRONG; compare $2 and $3"
    fi
    [ -s "$2" ] || fail "$1: nothing was expected, so nothing is proved"
    rm -f "$2.sorted" "$3.sorted"
    say "$1: $(wc -l <"$2") lines, all there, none twice, none wrong"
}

# held FILE: the INPUT_RATE at which FILE lasts longer than anybody waits. The job is held back until its faults have struck, whatever the
# machine's speed, and then let go.
held() { echo $(($(wc -l <"$1") / PATIENCE + 1)); }

# let_go: the rest of a held job's input, as fast as it goes.
let_go() {
    job_runs || fail 'the job was over before its faults had struck: nothing is proved'
    rs rainstormctl set_rate "$JOB" 0 >/dev/null || fail "cannot let $JOB go"
}

# counted_by_first_word FILE: the running count of the lines with `static` for each first word. Words end where ASCII
# white space does.
counted_by_first_word() {
    awk '/static/ { line = $0; sub(/^[ \t\r\f]+/, "", line); sub(/[ \t\r\f].*/, "", line); print line "\t" ++n[line] }' "$1"
}

# static_in_capitals FILE: what `grep -n | sed` make of it, the keys spelled as the job spells them ($FILE:line).
static_in_capitals() {
    sed 's/\r$//' "$1" | grep -a -n static | sed "s/static/STATIC/g; s|^\([0-9]*\):|$FILE:\1\t|"
}

# bundle PROGRAM: one executable of an operator written with the Python SDK. Sets BUNDLED.
bundle() {
    BUNDLED=$RUN/operators/$(basename "$1" .py)
    mkdir -p "$RUN/operators"
    say "${DIM}\$ python3 -m rainstorm bundle $1 -o $BUNDLED$PLAIN"
    PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$ROOT/ops/python python3 -m rainstorm bundle "$ROOT/$1" -o "$BUNDLED" 2>&1 | sed 's/^/    /'
}
