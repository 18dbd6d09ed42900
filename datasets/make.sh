#!/usr/bin/env bash
# Makes the large data sets. Run it bare for what it can make.
set -euo pipefail
export LC_ALL=C

usage() {
    cat <<'TXT'
usage: datasets/make.sh text SIZE_MB OUT   real source code, one file of SIZE_MB million bytes
       datasets/make.sh csv SIZE_MB OUT    TPC-H lineitem rows, `|`-separated, about 120 bytes each

OUT is written beside itself first and renamed when complete. The same machine makes the same bytes every time.
TXT
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Real text: the crates' sources that cargo keeps after a build; without them, this repository's own.
source_files() {
    local registry=${CARGO_HOME:-$HOME/.cargo}/registry/src here
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    if [ -d "$registry" ] && [ -n "$(find -L "$registry" -name '*.rs' -print -quit)" ]; then
        find -L "$registry" -name '*.rs' -type f -print0 | sort -z
    else
        find "$here" -path "$here/target" -prune -o -path "$here/run" -prune -o -name '*.rs' -type f -print0 | sort -z
    fi
}

# The jobs look for `static`. In most Rust code it is rare, so the files are those in which one line in a hundred
# has it: 2 to 4 % of all lines then, as in C. Too few such files: all files.
text_sources() {
    source_files >"$1.all"
    xargs -0 awk '
        function note() { if (lines && hits * 100 >= lines) { printf "%s%c", name, 0 } }
        FNR == 1 { note(); name = FILENAME; lines = hits = 0 }
        { lines++ }
        /static/ { hits++ }
        END { note() }' <"$1.all" >"$1.list"
    [ "$(tr -cd '\0' <"$1.list" | wc -c)" -ge 50 ] || cp "$1.all" "$1.list"
}

# Passes on whole lines of its input, at most $1 bytes. It reads to the end, so that nobody dies of a closed pipe.
cut_to() {
    awk -v limit="$1" '{ size += length($0) + 1 } size <= limit { print }'
}

make_text() {
    local bytes=$1 out=$2 had
    text_sources "$out"
    [ -s "$out.list" ] || fail "no source code found; build once (cargo build) so that cargo fetches the crates' sources"
    : >"$out.raw"
    while had=$(stat -c %s "$out.raw") && [ "$had" -lt "$bytes" ]; do
        # `awk 1` ends a file's last line that has no newline; head's early end is no error here.
        { xargs -0 awk 1 <"$out.list" 2>/dev/null || true; } | head -c $((bytes - had)) >>"$out.raw"
        [ "$(stat -c %s "$out.raw")" -gt "$had" ] || fail "the sources found are all empty"
    done
    cut_to "$bytes" <"$out.raw"
}

make_csv() {
    local bytes=$1
    if command -v tpchgen-cli >/dev/null; then
        # Scale factor 1 is 760 million bytes of lineitem; a little more is asked for and cut.
        tpchgen-cli -s "$(awk -v b="$bytes" 'BEGIN { printf "%.4f", b / 740e6 + 0.001 }')" --tables lineitem --stdout | cut_to "$bytes"
        return
    fi
    # Shape and value ranges of TPC-H lineitem (suppliers grow with the size as there: 2,500 at 180 MB); made here,
    # so that nothing has to be installed. One Park-Miller sequence, exact in doubles: any awk makes the same bytes.
    awk -v limit="$bytes" '
        function next_below(n) { seed = (seed * 16807) % 2147483647; return seed % n }
        function date(day) { return sprintf("%04d-%02d-%02d", 1992 + int(day / 336), 1 + int(day / 28) % 12, 1 + day % 28) }
        BEGIN {
            seed = 19920101
            split("AIR FOB MAIL RAIL REG_AIR SHIP TRUCK", modes, " "); sub("_", " ", modes[5])
            split("COLLECT COD,DELIVER IN PERSON,NONE,TAKE BACK RETURN", instructions, ",")
            words = split("requests deposits foxes packages accounts ideas theodolites pinto beans instructions " \
                "dependencies excuses platelets asymptotes courts dolphins multipliers sauternes warthogs frets dinos " \
                "sleep wake are cajole haggle nag use boost affix detect integrate about above across after along among " \
                "around at before carefully furiously quickly slyly blithely express regular special final pending bold", word, " ")
            for (i = 0; i < 4096; i++) {
                text = word[1 + next_below(words)]
                want = 12 + next_below(28)
                while (length(text) < want) text = text " " word[1 + next_below(words)]
                comment[i] = substr(text, 1, 43)
            }
            for (i = 0; i < 2550; i++) day[i] = date(i)
            suppliers = int(limit / 72000); if (suppliers < 100) suppliers = 100
            parts = suppliers * 20
            for (order = 1; ; order++) {
                if (order % 8 == 0) order += 24     # order keys are sparse in TPC-H
                lines = 1 + next_below(7)
                ordered = next_below(2300)
                for (line = 1; line <= lines; line++) {
                    part = 1 + next_below(parts); supplier = 1 + next_below(suppliers); quantity = 1 + next_below(50)
                    dice = next_below(184320000); ship = ordered + 1 + dice % 120; dice = int(dice / 120)
                    receipt = ship + 1 + dice % 30; dice = int(dice / 30)
                    # Received before the middle of 1995: returned or accepted; later: not yet.
                    flag = receipt > 1190 ? "N" : (dice % 2 ? "R" : "A")
                    row = sprintf("%d|%d|%d|%d|%d|%.2f|0.%02d|0.%02d|%s|%s|%s|%s|%s|%s|%s|%s|", order, part, supplier, line,
                        quantity, quantity * (900 + part % 1000 + (part % 100) / 100), dice % 11, int(dice / 11) % 9,
                        flag, ship > 1190 ? "O" : "F", day[ship], day[ordered + 30 + dice % 60], day[receipt],
                        instructions[1 + int(dice / 99) % 4], modes[1 + int(dice / 396) % 7], comment[next_below(4096)])
                    size += length(row) + 1
                    if (size > limit) exit
                    print row
                }
            }
        }'
}

if [ $# -ne 3 ]; then
    usage >&2
    exit 2
fi
kind=$1 megabytes=$2 out=$3
[[ $megabytes =~ ^[1-9][0-9]*$ ]] || fail "SIZE_MB is \`$megabytes\`; it must be a whole number from 1, such as 48"
[ -d "$(dirname "$out")" ] || fail "the folder of $out does not exist"
trap 'rm -f "$out.part" "$out.raw" "$out.list" "$out.all"' EXIT
case $kind in
text) make_text $((megabytes * 1000000)) "$out" >"$out.part" ;;
csv) make_csv $((megabytes * 1000000)) >"$out.part" ;;
*)
    usage >&2
    exit 2
    ;;
esac
[ -s "$out.part" ] || fail "nothing was made"
mv "$out.part" "$out"
