# shellcheck shell=bash
# Which processes belong to a cluster. They are known by what their command lines name (this run folder's cluster.toml or
# sshd_config) and by descent, never by a bare name: other clusters on the machine are nobody's business here.

# Filled by scan_cluster: pid -> node (`-` for one that is on no node, such as a leader), pid -> what it is.
declare -A PROC_NODE PROC_WHAT

# Mind in here: called from a trap, a bare `return` gives the status from before the trap.

# scan_cluster RUN: one look at /proc. The caller and its ancestors never count.
scan_cluster() {
    local run=$1 entry pid rest state up
    local -a argv
    local -A parent=() argv0=() spared=()
    PROC_NODE=() PROC_WHAT=()
    for entry in /proc/[0-9]*; do
        pid=${entry#/proc/}
        rest=''
        { IFS= read -r -d '' rest <"$entry/stat"; } 2>/dev/null || true # no NUL there: always the end of the file
        [ -n "$rest" ] || continue
        rest=${rest##*) } # the program's name, in brackets, may hold anything
        state=${rest%% *} rest=${rest#* }
        [ "$state" != Z ] || continue
        parent[$pid]=${rest%% *}
        { mapfile -d '' -t argv <"$entry/cmdline"; } 2>/dev/null || continue
        [ ${#argv[@]} -gt 0 ] || continue
        argv0[$pid]=${argv[0]}
        recognise "$run" "$pid" "${argv[@]}"
    done
    for ((up = BASHPID; up > 1; up = ${parent[$up]:-0})); do spared[$up]=1; done

    # A session of a node's sshd whose listener is gone still holds that sshd's log open.
    for pid in "${!argv0[@]}"; do
        [[ ${argv0[$pid]} == sshd* && -z ${PROC_NODE[$pid]:-} ]] || continue
        for entry in /proc/"$pid"/fd/*; do
            rest=$(readlink "$entry" 2>/dev/null) || continue
            if [[ $rest == "$run"/*/log/sshd.log ]]; then
                rest=${rest#"$run"/}
                PROC_NODE[$pid]=${rest%%/*} PROC_WHAT[$pid]=session
                # One that shows its own command line with other characters than it was given.
                [[ ${argv0[$pid]} != *'[listener]'* ]] || PROC_WHAT[$pid]=sshd
                break
            fi
        done
    done

    # Descendants belong to their nearest known ancestor's node: sessions, shells, operators.
    for pid in "${!parent[@]}"; do
        [ -z "${PROC_NODE[$pid]:-}" ] || continue
        for ((up = ${parent[$pid]}; up > 1; up = ${parent[$up]:-0})); do
            [ "$up" != $$ ] || break
            if [ -n "${PROC_NODE[$up]:-}" ]; then
                PROC_NODE[$pid]=${PROC_NODE[$up]} PROC_WHAT[$pid]=child
                break
            fi
        done
    done
    for pid in "${!spared[@]}"; do unset "PROC_NODE[$pid]" "PROC_WHAT[$pid]"; done
}

# recognise RUN PID ARGV...: enters one process when its own command line says that it is the cluster's.
recognise() {
    local run=$1 pid=$2 cluster='' node=- what i text
    shift 2
    local -a argv=("$@")
    what=${argv[0]##*/}

    # sshd replaces its arguments by one string, `sshd: /usr/sbin/sshd -D -f ... [listener] 0 of ...`.
    if [[ ${argv[0]} == sshd:* || $what == sshd ]]; then
        text=" ${argv[*]} "
        if [[ $text == *" -f $run/"*"/sshd_config "* ]]; then
            text=${text#*" -f $run/"}
            PROC_NODE[$pid]=${text%%/*} PROC_WHAT[$pid]=sshd
        fi
        return 0
    fi
    # The leader's connection to a node outlives a leader that was killed.
    if [ "$what" = ssh ]; then
        # The key's path may be a link that ssh takes for what it is.
        for ((i = 1; i + 1 < ${#argv[@]}; i++)); do
            if [ "${argv[i]}" = -i ] && [ "$(realpath -m -- "${argv[i + 1]}")" = "$run/id_ed25519" ]; then
                PROC_NODE[$pid]=- PROC_WHAT[$pid]=ssh
            fi
        done
        return 0
    fi
    for ((i = 1; i < ${#argv[@]}; i++)); do
        case ${argv[i]} in
        --cluster) cluster=${argv[i + 1]:-} ;;
        --cluster=*) cluster=${argv[i]#--cluster=} ;;
        --node) node=${argv[i + 1]:--} ;;
        --node=*) node=${argv[i]#--node=} ;;
        memberd | hydfsd | hydfs | worker | leader | rainstormctl) [ "$i" -gt 1 ] || what=${argv[i]} ;;
        */memberd | */hydfsd | */hydfs | */worker | */leader | */rainstormctl) [ "$i" -gt 1 ] || what=${argv[i]##*/} ;; # a script
        esac
    done
    case $what in
    memberd | hydfsd | hydfs | worker | leader | rainstormctl)
        if [ -z "$cluster" ]; then cluster=$(environment "$pid" RAINSTORM_CLUSTER); fi
        ;;
    *)
        # An operator whose worker is gone: it runs out of the node's data folder, or was started for a task.
        for text in "${argv[@]}" "$(readlink "/proc/$pid/cwd" 2>/dev/null)"; do
            [[ $text == "$run"/* ]] || continue
            [ -n "$(environment "$pid" RAINSTORM_TASK)" ] || continue
            text=${text#"$run"/}
            PROC_NODE[$pid]=${text%%/*} PROC_WHAT[$pid]=operator
            return 0
        done
        return 0
        ;;
    esac
    [ -n "$cluster" ] || return 0
    [[ $cluster == /* ]] || cluster=$(readlink "/proc/$pid/cwd" 2>/dev/null)/$cluster
    if [ "$cluster" = "$run/cluster.toml" ] || [ "$(realpath -m -- "$cluster")" = "$run/cluster.toml" ]; then
        PROC_NODE[$pid]=$node PROC_WHAT[$pid]=$what
    fi
}

# environment PID NAME: the value of a variable of another process, or nothing.
environment() {
    local -a pairs=()
    local pair
    { mapfile -d '' -t pairs <"/proc/$1/environ"; } 2>/dev/null || return 0
    for pair in "${pairs[@]}"; do
        if [[ $pair == "$2="* ]]; then
            printf '%s' "${pair#*=}"
            return 0
        fi
    done
}

# pids_of NODE|* [WHAT]: from the last scan, in ascending order.
pids_of() {
    local pid
    for pid in "${!PROC_NODE[@]}"; do
        [ "$1" = '*' ] || [ "${PROC_NODE[$pid]}" = "$1" ] || continue
        [ -z "${2:-}" ] || [ "${PROC_WHAT[$pid]}" = "$2" ] || continue
        echo "$pid"
    done | sort -n
}

# kill_at_once RUN NODE|*: one kill -9 for all; then again for what was being born meanwhile. Prints the pids of the first.
kill_at_once() {
    local round pids
    for round in {1..50}; do
        scan_cluster "$1"
        pids=$(pids_of "$2" | tr '\n' ' ')
        [ -n "$pids" ] || return 0
        # shellcheck disable=SC2086  # one argument per pid
        kill -9 $pids 2>/dev/null || true
        if [ "$round" -eq 1 ]; then echo "$pids"; else sleep 0.05; fi
    done
    return 1
}

# end_cluster RUN: asks first, and kills what is still there after three seconds. Leaves no process.
end_cluster() {
    local deadline=$((SECONDS + 4)) round=0 pids
    while [ "$SECONDS" -lt "$deadline" ]; do
        scan_cluster "$1"
        pids=$(pids_of '*' | tr '\n' ' ')
        [ -n "$pids" ] || return 0
        # Again now and then, for those that were started by one that had not yet ended.
        # shellcheck disable=SC2086
        if [ $((round++ % 10)) -eq 0 ]; then kill -TERM $pids 2>/dev/null || true; fi
        sleep 0.05
    done
    kill_at_once "$1" '*' >/dev/null
}

# run_in_scratch NAME COMMAND...: COMMAND with TMPDIR a folder of its own, which goes at the end with every cluster in it.
# Interrupted, the command does not take them down itself. Exits with COMMAND's code.
run_in_scratch() {
    local code=0
    SCRATCH=$(realpath "$(mktemp -d "${TMPDIR:-/tmp}/rainstorm-$1.XXXXXX")") RUNNER=''
    shift
    trap end_scratch EXIT
    trap 'trap "" INT TERM; exit 130' INT TERM
    TMPDIR=$SCRATCH RAINSTORM_BIN=$BIN "$@" &
    RUNNER=$!
    wait "$RUNNER" || code=$?
    RUNNER=''
    exit "$code"
}

end_scratch() {
    trap '' INT TERM
    local cluster
    if [ -n "$RUNNER" ]; then
        kill -TERM "$RUNNER" 2>/dev/null || true
        wait "$RUNNER" 2>/dev/null || true
    fi
    while IFS= read -r -d '' cluster; do
        end_cluster "$(dirname "$cluster")" || true
    done < <(find "$SCRATCH" -name cluster.toml -print0)
    rm -rf "$SCRATCH"
}

# run_program NAME ARGS...: builds that program of the tests, and runs it as above.
run_program() {
    local name=$1
    shift
    need_cargo
    need_ssh
    need_programs
    cd "$ROOT" || exit
    cargo build --quiet --release --workspace --bin "$name"
    run_in_scratch "$name" "${CARGO_TARGET_DIR:-$ROOT/target}/release/$name" "$@"
}
