#!/usr/bin/env bash
# Your own operators: with the Rust SDK, with the Python SDK (a transform, and an aggregate whose state survives), and in
# awk over the text protocol (an aggregate that cannot save its state: its input is logged). Workers and the operators' own
# processes are killed in mid-run. Checked against sed, sort, awk and what the data was made to hold.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

need_cluster
need_python
TEMPLATE=$BIN/template
[ -x "$TEMPLATE" ] || TEMPLATE=$ROOT/target/release/template
[ -x "$TEMPLATE" ] || fail "$TEMPLATE is missing; type: cargo build --release -p demo-operators"

begin 'Rust: template (lines to their templates), then a count of each'
BASE=$JOB
dataset text 8
load "$DATA"
TEXT=$DATA TEXT_SOURCE=$SOURCE
JOB=$BASE-rust DEST=demo/$JOB
run_job --console none 2 3 "$TEMPLATE" '' count '--emit final' "$SOURCE" "$DEST" true false
say "$(speed)"
sed -E 's/\r$//; s/(^|[^A-Za-z0-9])[0-9][A-Za-z0-9.:-]*/\1<n>/g' "$TEXT" | awk '{ n[$0]++ } END { for (t in n) print t "\t" n[t] }' >"$WORK/templates"
same 'templates against sed and awk' "$WORK/templates" "$GOT"

step 'Python: mood.py (a transform), then distinct.py (an aggregate), held back; three kills'
# Reviews whose mood is known because they were made for it; common ones and rare ones.
DATA=$WORK/reviews
awk -v moods="$WORK/moods" 'BEGIN {
    n = split("+1 is good|-1 is not good|+2 is great and fast|-2 is slow, and broken|+1 does not fail|+0 came on Monday|+0 works; was lost once|-1 is not very nice", says, "|")
    x = 7
    for (i = 1; i <= 48000; i++) {
        x = x * 16807 % 2147483647; product = "product-" 100 + x % 150
        x = x * 16807 % 2147483647; s = says[1 + x % n]
        x = x * 16807 % 2147483647; u = x / 2147483647
        line = product substr(s, 3) ", lot " int(8 * u * u * u)
        print line
        print product "\t" substr(s, 1, 2) "\t" line >moods
    }
}' >"$DATA"
# Every growth of a product's number of different reviews, and at the end the most frequent one.
awk -F'\t' '
    { mood = $2 "\t" $3 }
    !n[$1, mood]++ { print $1 "\t" ++distinct[$1] }
    n[$1, mood] > most[$1] || (n[$1, mood] == most[$1] && mood < which[$1]) { most[$1] = n[$1, mood]; which[$1] = mood }
    END { for (p in most) print p "\t" distinct[p] " " which[p] " " most[p] }' "$WORK/moods" >"$WORK/distinct"
load "$DATA"
bundle demo/operators/mood.py && MOOD=$BUNDLED
bundle demo/operators/distinct.py && DISTINCT=$BUNDLED
JOB=$BASE-python DEST=demo/$JOB
start_job 3 3 "$MOOD" '' identity '--key word:1' "$DISTINCT" '' "$SOURCE" "$DEST" true false "$(held "$DATA")"
await_output "$PATIENCE" $(($(wc -l <"$WORK/distinct") / 20))
kill_now 's3t0'
await_restart
kill_operator 's3t1'
await_restart
kill_operator 's1t*'
await_restart
let_go
end_job "$PATIENCE"
[ "$(figure restarts)" -ge 3 ] || fail "the summary counts $(figure restarts) restarts, there were three kills: nothing is proved"
same 'numbers and favourites against awk' "$WORK/distinct" "$GOT"
PYTHON_RESTARTS=$(figure restarts)

step 'awk: declares.sh (a filter), then longest.sh (an aggregate), held back; two kills'
JOB=$BASE-awk DEST=demo/$JOB DATA=$TEXT
start_job 3 3 "filter:$ROOT/demo/operators/declares.sh" '' identity '--key word:0' "aggregate:$ROOT/demo/operators/longest.sh" '' \
    "$TEXT_SOURCE" "$DEST" true false "$(held "$DATA")"
# Few lines come out, since each must be longer than all before: a task that forgot would repeat itself.
await_output "$PATIENCE" 10
kill_now 's3t*'
await_restart
kill_operator "$TASK"
await_restart
let_go
end_job "$PATIENCE"
[ "$(figure restarts)" -ge 2 ] || fail "the summary counts $(figure restarts) restarts, there were two kills: nothing is proved"
# Which of them come out depends on the order in which three tasks meet them. Of each key: only lines that there are, each
# longer than the one before, and the last of them as long as the longest that there is.
sed 's/\r$//' "$TEXT" | grep -aE '(^|[^A-Za-z0-9_])fn [A-Za-z_]' >"$WORK/declared"
awk -v declared="$WORK/declared" '
    BEGIN {
        while ((getline line <declared) > 0) {
            key = line; sub(/^[ \t\r\f]+/, "", key); sub(/[ \t\r\f].*/, "", key)
            there[key "\t" line] = 1
            if (length(line) > most[key]) most[key] = length(line)
        }
    }
    { key = $0; sub(/\t.*/, "", key); size = length($0) - length(key) - 1 }
    !($0 in there) || size <= last[key] { print "wrong: " $0 }
    { last[key] = size }
    END { for (key in most) if (last[key] != most[key]) print "the longest is missing of: " key }' "$GOT" >"$WORK/wrong"
[ ! -s "$WORK/wrong" ] || fail "longest lines: WRONG: $(head -n 3 "$WORK/wrong" | cat -v)"
LONGEST=$(cut -f1 "$GOT" | sort -u | wc -l)
[ "$LONGEST" -ge 5 ] || fail 'hardly any key: nothing is proved'
say "longest lines against grep and awk: $(wc -l <"$GOT") for $LONGEST keys, each longer than the one before it, none of the longest missing"
good "shown: operators of one's own in Rust, Python and awk, also killed ($((PYTHON_RESTARTS + $(figure restarts))) restarts); what the aggregates knew was not lost"
