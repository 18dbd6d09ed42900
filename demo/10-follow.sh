#!/usr/bin/env bash
# --follow: a job over files that grow, and over new ones, until Ctrl-C; then it does what is there and ends. A counting
# task is killed meanwhile. Checked against awk.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

# append LOCAL NAME
append() { rs hydfs append "$1" "$2" >/dev/null || fail "cannot append to $2"; }

# caught_up: until all that the pieces so far come to is on the screen.
caught_up() {
    local began=$EPOCHREALTIME
    await_output "$PATIENCE" "$EXPECTED"
    say "$1: $EXPECTED lines are out, $(seconds_since "$began") s later"
}

# given PIECE...: these were put in; EXPECTED is how many lines of output that makes in all.
given() {
    local piece
    for piece in "$@"; do EXPECTED=$((EXPECTED + $(grep -ac static "$piece" || true))); done
}

need_cluster
begin 'a running count by first word, of files that grow'
dataset text 8
counted_by_first_word "$DATA" >"$WORK/expected"
split -n l/12 -d "$DATA" "$WORK/piece."
PIECES=("$WORK"/piece.*)
# The very last line comes without its newline: nobody can know whether it goes on, until it is said that nothing comes.
printf 'static without an end' >"$WORK/last"
{ cat "$DATA" && cat "$WORK/last"; } >"$WORK/all"
counted_by_first_word "$WORK/all" >"$WORK/expected"
EXPECTED=0
SOURCE=data/$JOB
rs hydfs create "${PIECES[0]}" "$SOURCE/first" >&2

# With job control the leader has a process group of its own, to which a terminal's Ctrl-C goes.
set -m
start_job --follow 2 3 grep '--key word:0 static' count '' "$SOURCE" "$DEST" true false
set +m
given "${PIECES[0]}"
caught_up 'the first file'
append "${PIECES[1]}" "$SOURCE/first"
given "${PIECES[1]}"
caught_up 'appended to it'
rs hydfs create "${PIECES[2]}" "$SOURCE/second" >&2
given "${PIECES[2]}"
caught_up 'a second file'

# Both files grow, and a task dies while they do.
for i in {3..11}; do
    if [ $((i % 2)) -eq 0 ]; then append "${PIECES[i]}" "$SOURCE/first"; else append "${PIECES[i]}" "$SOURCE/second"; fi
    given "${PIECES[i]}"
    if [ "$i" -eq 6 ]; then
        kill_now 's2t*'
        [ "$(wc -l <"$OUT")" -lt "$(wc -l <"$WORK/expected")" ] || fail 'all output was there before the kill: nothing is proved'
    fi
done
await_restart
caught_up 'nine more pieces'
append "$WORK/last" "$SOURCE/first"

INTERRUPTED_AT=$EPOCHREALTIME
kill -INT -- "-$LEADER" || fail 'the job was over before Ctrl-C was sent: nothing is proved'
await_end "$PATIENCE" || fail "the job still runs $PATIENCE s after Ctrl-C"
[ "$CODE" -eq 0 ] || fail "after Ctrl-C exit code $CODE, it should be 0"
say "Ctrl-C: exit code 0 after $(seconds_since "$INTERRUPTED_AT") s"
fetch_output
[ "$(figure restarts)" -ge 1 ] || fail 'the summary counts no restart: the kill did not hit, nothing is proved'
same 'updates in HyDFS against awk' "$WORK/expected" "$GOT"
same 'updates on the screen against awk' "$WORK/expected" "$OUT"
good "shown: two files that grew under a running job, a counting task killed, Ctrl-C: every line counted once, the last without its newline too"
