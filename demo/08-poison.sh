#!/usr/bin/env bash
# A tuple that an operator dies of. The job fails and says which one it was and what the operator said of it; or, with
# --poison skip, sets such tuples aside and does all the rest. Checked against awk.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

need_cluster
begin 'prices.sh dies of a price that is none; 5 of 20000 are'
BASE=$JOB
DATA=$WORK/prices
awk 'BEGIN { for (i = 1; i <= 20000; i++) if (i % 4000 == 1234) print "item-" i " n/a"; else printf "item-%d %d.%02d\n", i, i % 977, i % 100 }' >"$DATA"
load "$DATA"
OPERATOR=$ROOT/demo/operators/prices.sh

JOB=$BASE-fail DEST=demo/$JOB
start_job --console none --max-restarts 1 2 3 "$OPERATOR" '' identity '' "$SOURCE" "$DEST" true false
await_end "$PATIENCE" || fail "the job still runs $PATIENCE s after it met the poison tuple"
[ "$CODE" -eq 1 ] || fail "the job ended with exit code $CODE; with a poison tuple it should be 1"
await_message '^leader: job '
LAST=$(tail -n 1 "$ERR")
KEY=$(grep -oE "$FILE:[0-9]+" <<<"$LAST" | head -n 1) || fail "the last message names no tuple: $LAST"
sed -n "${KEY##*:}p" "$DATA" | grep -q 'n/a' || fail "the tuple named is none of those: $KEY"
grep -q 'this is no price: n/a' <<<"$LAST" || fail "the last message does not have what the operator said: $LAST"
say "failed with exit code 1; its last message names $KEY and the operator's last words"

step 'the same with --poison skip'
JOB=$BASE-skip DEST=demo/$JOB
run_job --console none --max-restarts 1 --poison skip 2 3 "$OPERATOR" '' identity '' "$SOURCE" "$DEST" true false
awk -v file="$FILE" '$2 != "n/a" { split($2, p, "."); print file ":" NR "\t" p[1] * 100 + p[2] }' "$DATA" >"$WORK/expected"
same 'prices against awk' "$WORK/expected" "$GOT"
awk -v file="$FILE" '$2 == "n/a" { print file ":" NR "\t" $0 }' "$DATA" >"$WORK/poison"
rs hydfs get "$DEST.poison" "$WORK/set-aside" >&2 || fail "there is no $DEST.poison"
same "tuples in $DEST.poison against awk" "$WORK/poison" "$WORK/set-aside"
good "shown: the job names the tuple that its operator died of; with --poison skip 5 were set aside, $(wc -l <"$GOT") went through, $(figure restarts) restarts"
