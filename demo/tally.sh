# shellcheck shell=bash
# What the tests' runs came to: passed, failed, skipped, added up over all that ran.

# shellcheck disable=SC2034  # PASSED, FAILS: for the script that sources this file
PASSED=0 FAILS=0
declare -a SKIPPED=()

# tally SAID CODE: adds what a command printed (cargo test, demo/all.sh), given its exit code. A command that failed without naming what failed
# counts as one failure.
tally() {
    local passed failed name
    read -r passed failed < <(sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '
        /^test result: / { p += $4; f += $6 }
        /^[0-9][0-9]-[a-z-]+ +[0-9.]+ s  / { if ($4 == "FAILED" || $4 == "FAILED,") f++; else p++ }
        END { print p + 0, f + 0 }')
    if [ "$2" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
    PASSED=$((PASSED + passed)) FAILS=$((FAILS + failed))
    # What the tests' own runner left out: `test NAME ... ignored, REASON`.
    while IFS= read -r name; do SKIPPED+=("$name"); done < <(sed 's/\x1b\[[0-9;]*m//g' "$1" |
        sed -nE -e 's/^test (.*) \.\.\. ignored, (.*)$/\1: \2/p' -e 's/^test (.*) \.\.\. ignored$/\1: no reason is given/p')
}

# tally_skipped FILE: lines `NAME<TAB>REASON`, of tests that the runner takes for passed.
tally_skipped() {
    local name why
    while IFS=$'\t' read -r name why; do
        SKIPPED+=("$name: $why")
        PASSED=$((PASSED - 1))
    done <"$1"
}

# tally_close: the skipped ones by name, and the line that closes the run.
tally_close() {
    [ ${#SKIPPED[@]} -eq 0 ] || printf 'skipped: %s\n' "${SKIPPED[@]}"
    printf '%d passed, %d failed, %d skipped\n' "$PASSED" "$FAILS" "${#SKIPPED[@]}"
}
