#!/usr/bin/env bash
# What a foreign executable costs: the same operators inside the worker and as programs of their own (batch protocol), in turn;
# then how many tuples a second one task passes through Python (SDK) and awk (text protocol). Every output is checked.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

RUNS=5 TEXT_MB=160
while [ $# -gt 0 ]; do
    case $1 in
        --runs) RUNS=$2 ;;
        --text) TEXT_MB=$2 ;;
        *) printf 'usage: bench/foreign.sh [--runs N] [--text MB]\n' >&2 && exit 2 ;;
    esac
    shift 2
done
bench_cluster "$TEXT_MB" 0

cat >"$OUT/upper.py" <<'PY'
#!/usr/bin/env python3
import rainstorm


@rainstorm.transform
def upper(value):
    return value.upper()


rainstorm.run()
PY
PYTHONPATH=$ROOT/ops/python python3 -m rainstorm bundle "$OUT/upper.py" -o "$OUT/upper"
cat >"$OUT/upper.sh" <<'SH'
#!/bin/sh
interactive=; case $(readlink -f "$(command -v awk)") in *mawk*) interactive='-W interactive' ;; esac
exec awk $interactive '/^value: /{ print "forward\nvalue: " toupper(substr($0, 8)); fflush() }'
SH
chmod +x "$OUT/upper.sh"
head -n 1000000 "$TEXT" >"$OUT/million"
"$BIN/hydfs" create "$OUT/million" million/data 2>/dev/null

N=0
# measure NAME ORACLE ARGS...: one run, checked against ORACLE's output; its speed goes to results.
measure() {
    local name=$1 want=$2
    shift 2
    N=$((N + 1))
    "$BIN/leader" --job "foreign-$N-$$" --console none --progress never --format value --summary "$OUT/summary.json" "$@" "out/$N" true false || fail "$name failed"
    "$BIN/hydfs" get "out/$N" "$OUT/foreign.got" 2>/dev/null
    [ -s "$want" ] || fail "no oracle for $name"
    sort -S 1G --parallel=2 "$OUT/foreign.got" | cmp -s - "$want" || fail "$name: the output is wrong"
    "$BIN/hydfs" rm "out/$N"
    printf '%s\t%s\n' "$name" "$(json in_per_s "$OUT/summary.json")" >>"$OUT/foreign.tsv"
}
speed() { awk -F'\t' -v n="$1" '$1 == n { print $2 }' "$OUT/foreign.tsv" | median; }

sed 's/\r$//' "$TEXT" | sort -S 1G >"$OUT/identity.want"
sed 's/\r$//' "$TEXT" | grep -aF static | sort >"$OUT/grep.want"
sed 's/\r$//' "$TEXT" | grep -aF static | sed 's/static/STATIC/g' | sort >"$OUT/replace.want"
sed 's/\r$//' "$OUT/million" | tr '[:lower:]' '[:upper:]' | sort -S 1G >"$OUT/upper.want"
OP=$BIN/rainstorm-op
: >"$OUT/foreign.tsv"
step "in the worker and as a program: 2 stages of 3 tasks, $RUNS runs each after a warm-up, in turn; and 1 task of Python, of awk"
for ((run = 0; run <= RUNS; run++)); do
    [ "$run" -ne 1 ] || : >"$OUT/foreign.tsv"
    measure 'identity' "$OUT/identity.want" 2 3 identity '' identity '' text
    measure 'identity, foreign' "$OUT/identity.want" 2 3 "$OP" identity identity '' text
    measure 'grep' "$OUT/grep.want" 2 3 grep '-F static' identity '' text
    measure 'grep, foreign' "$OUT/grep.want" 2 3 "$OP" 'grep -F static' identity '' text
    measure 'replace' "$OUT/replace.want" 2 3 grep '-F static' replace '-F static STATIC' text
    measure 'replace, foreign' "$OUT/replace.want" 2 3 "$OP" 'grep -F static' "$OP" 'replace -F static STATIC' text
    measure 'python' "$OUT/upper.want" 1 1 "$OUT/upper" '' million
    measure 'text' "$OUT/upper.want" 1 1 "$OUT/upper.sh" '' million
done
for op in identity grep replace; do
    awk -v o="$op" -v a="$(speed "$op")" -v b="$(speed "$op, foreign")" 'BEGIN { printf "%-10s %6.2f M lines/s in the worker, %6.2f foreign: %.0f %%\n", o, a / 1e6, b / 1e6, 100 * b / a }'
done
printf 'python, one task: %.0f tuples/s\ntext protocol (awk), one task: %.0f tuples/s\n' "$(speed python)" "$(speed text)"
rm -f "$OUT"/*.want "$OUT/million" "$OUT"/upper*
