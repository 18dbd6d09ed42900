#!/usr/bin/env bash
# The first test of a cluster: two tasks per stage, identity operators, an INPUT_RATE. The rates that the resource manager
# reports must be that INPUT_RATE at every stage, within 2 % over 10 s windows, at 100, 10,000 and 200,000 tuples/s.
#   demo/rates.sh [SECONDS [RATE...]]     how long each rate is held (default 22), and the rates
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

HOLD=${1:-22}
shift || true
RATES=("$@")
[ "${#RATES[@]}" -gt 0 ] || RATES=(100 10000 200000)

need_cluster
need_python
begin 'identity, two stages of two tasks: what the resource manager reports against INPUT_RATE'
# Enough lines for the time and some more: short ones, so that it is tuples that count and not bytes.
MOST=$(printf '%s\n' "${RATES[@]}" | sort -n | tail -n 1)
# Split among two sources whatever its size: two files.
SOURCE=data/rates-$MOST-$HOLD
for half in a b; do
    rs hydfs stat "$SOURCE/$half" >/dev/null 2>&1 && continue
    seq $((MOST * (HOLD + 20) / 2)) >"$WORK/$half"
    rs hydfs create "$WORK/$half" "$SOURCE/$half" >&2 || fail 'cannot load the lines into HyDFS'
    rm -f "$WORK/$half"
done

# check RATE: one line per stage; fails when a stage's rate over 10 s is more than 2 % off in any of the samples.
# shellcheck disable=SC2016
SAMPLE='
import json, sys
rate, worst = float(sys.argv[1]), {}
for line in open(sys.argv[2]):
    for s in json.loads(line)["stages"]:
        seen = worst.setdefault(s["stage"], [])
        seen.append(s["in_per_10s"])
bad = not worst
for stage, seen in sorted(worst.items()):
    off = max(abs(r / rate - 1) for r in seen)
    bad |= off > 0.02
    print(f"    stage {stage}: {min(seen):.1f} to {max(seen):.1f} tuples/s in {len(seen)} windows of 10 s, at most {100 * off:.2f} % off" + ("  <-- too much" if off > 0.02 else ""))
sys.exit(bad)'

BAD=0
for rate in "${RATES[@]}"; do
    DEST=demo/$JOB-$rate
    start_leader --job "$JOB-$rate" --console none --progress never 2 2 identity '' identity '' "$SOURCE" "$DEST" false false "$rate"
    : >"$WORK/rates-$rate"
    # The first window is full after 10 s of running; the job has come up by then.
    deadline=$((SECONDS + PATIENCE))
    until rs rainstormctl rates "$JOB-$rate" --json 2>/dev/null | python3 -c 'import json, sys; s = json.load(sys.stdin)["stages"]; sys.exit(any(x["in_per_s"] <= 0 for x in s))' 2>/dev/null; do
        job_runs || fail 'the job ended at once (its messages are above)'
        [ "$SECONDS" -lt "$deadline" ] || fail 'not every stage has a rate after two minutes'
        sleep 0.2
    done
    sleep 11.5
    end=$((SECONDS + HOLD - 11))
    while [ "$SECONDS" -lt "$end" ]; do
        rs rainstormctl rates "$JOB-$rate" --json | python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)))' >>"$WORK/rates-$rate"
        sleep 1
    done
    say "INPUT_RATE $rate:"
    python3 -c "$SAMPLE" "$rate" "$WORK/rates-$rate" || BAD=1
    kill -TERM "$LEADER"
    await_end "$PATIENCE" || fail "the job still runs $PATIENCE s after it was stopped"
    rs hydfs rm "$DEST" >/dev/null 2>&1 || true
done
[ "$BAD" -eq 0 ] || fail 'some stage had another rate than INPUT_RATE'
good "shown: the rates reported for every stage are the INPUT_RATE, within 2 % over 10 s, at ${RATES[*]} tuples/s"
