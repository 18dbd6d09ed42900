#!/usr/bin/env bash
# Stages that gain and lose tasks: stage 1 goes up when its input rises over HW and down when it falls under LW, again and
# again, by what `rainstormctl set_rate` lets in; stage 2 by what stage 1 lets through. Each change within 5 s of the
# crossing, no change in between, exactly once all the while: the output is compared with awk's.
#   demo/autoscale.sh [ROUNDS [SECONDS]]     how often up and down (default 3), and how long each rate is held (default 12)
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

ROUNDS=${1:-3}
HOLD=${2:-12}
LOW=400 HIGH=1000
SLOW=700 FAST=2700 # one task of stage 1, and three

need_cluster
begin "one task per stage, LW $LOW, HW $HIGH; INPUT_RATE $SLOW and $FAST in turn, $ROUNDS times"
# Half of the lines have an `x`: stage 2 gets half of what stage 1 gets.
LINES=$((ROUNDS * HOLD * (SLOW + FAST) + 20 * FAST))
seq "$LINES" | awk '{ print $1, $1 % 2 ? "x" : "o" }' >"$WORK/input"
SOURCE=data/$JOB
rs hydfs create "$WORK/input" "$SOURCE/in" >&2 || fail 'cannot load the lines into HyDFS'
awk -v file="$SOURCE/in" '$2 == "x" { print file ":" NR "\t" $0 }' "$WORK/input" | sort >"$WORK/expected"

LOG=$RUN/n1/log/leader.log
start_job --node n1 --max-tasks 6 --console none --progress never 2 1 grep x identity '' "$SOURCE" "$DEST" true true "$SLOW" "$LOW" "$HIGH"
events() { grep -E "SCALE_(UP|DOWN)" "$LOG" 2>/dev/null | grep -F "job=$JOB " || true; }
count() { events | grep -cE "SCALE_$1 .*stage=$2 " || true; }

# await_change WORD STAGE N SECONDS: until there have been N such changes.
await_change() {
    local deadline=$((SECONDS + $4)) began=$EPOCHREALTIME
    until [ "$(count "$1" "$2")" -ge "$3" ]; do
        job_runs || fail "the job ended before SCALE_$1 number $3 of stage $2"
        [ "$SECONDS" -lt "$deadline" ] || fail "no SCALE_$1 number $3 of stage $2 within $4 s; there were: $(events | cut -d' ' -f1-9)"
        sleep 0.05
    done
    TOOK=$(seconds_since "$began")
}

deadline=$((SECONDS + PATIENCE))
until rs rainstormctl rates "$JOB" 2>/dev/null | awk '$1 == "s2t0" && $2 > 0 { found = 1 } END { exit !found }'; do
    [ "$SECONDS" -lt "$deadline" ] || fail "no tuple reached stage 2 in time; the leader's messages are above"
    sleep 0.1
done
sleep 5
[ -z "$(events)" ] || fail "it scaled at a rate between LW and HW: $(events)"
ups=0 downs=0
for ((round = 1; round <= ROUNDS; round++)); do
    rs rainstormctl set_rate "$JOB" "$FAST" >/dev/null
    await_change UP 1 $((ups + 1)) 6
    say "round $round: $FAST tuples/s in; stage 1 got its second task after $TOOK s"
    [ "$(awk -v t="$TOOK" 'BEGIN { print t <= 5 }')" = 1 ] || fail 'that is more than 5 s'
    sleep "$HOLD"
    ups=$(count UP 1)
    before=$(events | wc -l)
    rs rainstormctl set_rate "$JOB" "$SLOW" >/dev/null
    await_change DOWN 1 $((downs + 1)) 6
    say "round $round: $SLOW tuples/s in; stage 1 lost a task after $TOOK s"
    [ "$(awk -v t="$TOOK" 'BEGIN { print t <= 5 }')" = 1 ] || fail 'that is more than 5 s'
    sleep "$HOLD"
    downs=$(count DOWN 1)
    say "    $(rs rainstormctl rates "$JOB" | awk '$1 ~ /^[12]$/ { printf "stage %s: %s tuples/s, %s; ", $1, $2, $7 " " $8 }')$((before - 0)) changes so far"
done
events | sed 's/^/    /' | cut -c1-150
{ [ "$(count UP 2)" -ge 1 ] && [ "$(count DOWN 2)" -ge 1 ]; } || fail 'stage 2 was never scaled, though stage 1 let more and less through'
rs rainstormctl set_rate "$JOB" 0 >/dev/null
end_job "$PATIENCE"
sort -o "$GOT" "$GOT"
same 'output in HyDFS against awk' "$WORK/expected" "$GOT"
rs rainstormctl verify "$JOB" || fail 'the logs do not prove it'
rs hydfs rm "$SOURCE/in" >/dev/null 2>&1 || true
good "shown: $(events | wc -l) changes ($(count UP 1) up and $(count DOWN 1) down at stage 1, $(count UP 2) and $(count DOWN 2) at stage 2), each within 5 s, all $(wc -l <"$GOT") lines exactly once"
