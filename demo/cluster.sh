#!/usr/bin/env bash
# The local cluster: nodes n1, n2, ... on 127.0.0.11, .12, ..., each with its own sshd, memberd and hydfsd, under run/.
set -euo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=demo/procs.sh
. "$ROOT/demo/procs.sh"

SUBNET=${RAINSTORM_SUBNET:-127.0.0}
FIRST=${RAINSTORM_FIRST:-11}
SSH_PORT=2222
DAEMONS='sshd memberd hydfsd'

usage() {
    cat <<'TXT'
usage: demo/cluster.sh up [N] [--fresh]   starts N nodes (default 3, or as many as the stopped cluster had);
                                          --fresh throws away what an earlier cluster stored
       demo/cluster.sh down               ends all its processes; what it stored stays
       demo/cluster.sh status             a table; exit code 0 when every node is up, else 1
       demo/cluster.sh kill-node NAME     kill -9 of all processes of that node at once
       demo/cluster.sh start-node NAME    starts it again

Environment: RAINSTORM_RUN (the folder, default run/), RAINSTORM_BIN (the programs, default target/release),
RAINSTORM_SUBNET and RAINSTORM_FIRST (the first node's address, default 127.0.0 and 11).
TXT
}

# nodes_of FILE: `name address` for each node of a cluster file.
nodes_of() {
    awk -F'"' '/^\[\[node\]\]/ { name = addr = "" }
        /^name *=/ { name = $2 }
        /^addr *=/ { addr = $2 }
        name != "" && addr != "" { print name, addr; name = addr = "" }' "$1"
}

# Names and addresses of the cluster file, into NAMES and ADDR.
declare -a NAMES=()
declare -A ADDR=()
read_nodes() {
    local name addr
    NAMES=() ADDR=()
    [ -e "$CLUSTER" ] || return 0
    while read -r name addr; do NAMES+=("$name") ADDR[$name]=$addr; done < <(nodes_of "$CLUSTER")
}

# One cluster.sh at a time for each run folder. The daemons do not inherit the lock.
lock() {
    mkdir -p "$RUN"
    exec 9>"$RUN/.lock"
    flock -w 90 9 || fail "another demo/cluster.sh is at work on $RUN; wait for it, or end it"
}

nodes() { if [ "$1" -eq 1 ]; then echo '1 node'; else echo "$1 nodes"; fi; }

is_up() { [ -n "$(pids_of "$1" "$2")" ]; }

make_cluster() {
    local n=$1 i
    chmod 700 "$RUN"
    (umask 077 && head -c 32 /dev/urandom | base64 >"$RUN/secret")
    rm -f "$RUN/id_ed25519" "$RUN/id_ed25519.pub"
    ssh-keygen -q -t ed25519 -N '' -C rainstorm-local-cluster -f "$RUN/id_ed25519"
    : >"$RUN/known_hosts"
    for ((i = 1; i <= n; i++)); do
        mkdir -p "$RUN/n$i/data" "$RUN/n$i/log"
        rm -f "$RUN/n$i/host_key" "$RUN/n$i/host_key.pub"
        ssh-keygen -q -t ed25519 -N '' -C "rainstorm-n$i" -f "$RUN/n$i/host_key"
        printf '[%s.%d]:%d %s\n' "$SUBNET" $((FIRST + i - 1)) "$SSH_PORT" "$(cut -d' ' -f1,2 "$RUN/n$i/host_key.pub")" >>"$RUN/known_hosts"
    done
    # Last, and by renaming: a cluster file means that all the rest is there.
    {
        printf '# Made by demo/cluster.sh. Tunables may be added; names and addresses must stay.\n'
        printf 'secret_file = "secret"\n\n[ssh]\nuser = "%s"\nport = %d\nkey = "id_ed25519"\nknown_hosts = "known_hosts"\n' "$(id -un)" "$SSH_PORT"
        for ((i = 1; i <= n; i++)); do
            printf '\n[[node]]\nname = "n%d"\naddr = "%s.%d"\ndata = "n%d/data"\nlog = "n%d/log"\n' "$i" "$SUBNET" $((FIRST + i - 1)) "$i" "$i"
        done
    } >"$RUN/cluster.toml.new"
    mv "$RUN/cluster.toml.new" "$CLUSTER"
}

# What make_cluster and the daemons made, and nothing else: the folder may be anybody's.
remove_cluster() {
    local name
    for name in $(nodes_of "$CLUSTER" | cut -d' ' -f1); do rm -rf "${RUN:?}/${name:?}"; done
    rm -f "$CLUSTER" "$RUN/secret" "$RUN/known_hosts" "$RUN/id_ed25519" "$RUN/id_ed25519.pub"
}

# escaped TEXT: for between double quotes in sshd's settings.
escaped() {
    local text=${1//\\/\\\\}
    printf '%s' "${text//\"/\\\"}"
}

# Written at each start: the folder may have been moved, sshd may be another version. SHLVL=1 keeps bash from reading the
# user's ~/.bashrc in each session: what a program finds there is the path of whoever ran `up`, and nothing slow.
write_sshd_config() {
    local node=$1 config=$RUN/$1/sshd_config pam=no dir keys path
    # In quotes, where sshd knows two characters that mean more; of the keys' file it also expands percent signs.
    dir=$(escaped "$RUN/$1") keys=$(escaped "$RUN/id_ed25519.pub") path=$(escaped "$PATH")
    keys=${keys//%/%%}
    # A locked root account (as on Ubuntu) lets nobody in without PAM, whatever the key.
    if [ "$EUID" -eq 0 ] && getent shadow "$(id -un)" 2>/dev/null | cut -d: -f2 | grep -q '^!'; then pam=yes; fi
    cat >"$config" <<TXT
Port $SSH_PORT
AddressFamily inet
ListenAddress ${ADDR[$node]}
HostKey "$dir/host_key"
PidFile "$dir/sshd.pid"
AuthorizedKeysFile "$keys"
AuthenticationMethods publickey
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM $pam
StrictModes no
UseDNS no
MaxSessions 64
MaxStartups 64:30:128
LoginGraceTime 30
AllowTcpForwarding no
X11Forwarding no
PermitTunnel no
PermitUserRC no
PrintMotd no
PrintLastLog no
SetEnv "PATH=$path" "SHLVL=1"
TXT
    # Many connections from one address are what a leader makes; versions before 9.8 do not know the word.
    echo 'PerSourcePenalties no' >>"$config"
    if ! "$SSHD" -t -f "$config" 2>/dev/null; then sed -i '$d' "$config"; fi
    "$SSHD" -t -f "$config" || fail "sshd does not accept $config (see above)"
}

# spawn NODE WHAT COMMAND...: in a session of its own, so that it outlives this terminal.
spawn() {
    local dir=$RUN/$1 what=$2
    shift 2
    # The inner shell notes its own pid and then becomes the daemon: the pid file is never wrong.
    (
        cd "$dir"
        # shellcheck disable=SC2016  # for the inner shell
        exec setsid bash -c 'echo $$ >"$0"; exec "$@"' "$dir/$what.pid" "$@" </dev/null >>"$dir/log/$what.out" 2>&1 9>&-
    ) &
}

# Starts what of a node does not run, by the last scan.
start_daemons() {
    local node=$1 dir=$RUN/$1
    mkdir -p "$dir/data" "$dir/log"
    if ! is_up "$node" sshd; then
        if [ "$EUID" -eq 0 ] && [ ! -d /run/sshd ]; then mkdir -p /run/sshd && chmod 755 /run/sshd; fi
        write_sshd_config "$node"
        spawn "$node" sshd "$SSHD" -D -f "$dir/sshd_config" -E "$dir/log/sshd.log"
    fi
    is_up "$node" memberd || spawn "$node" memberd "$BIN/memberd" --cluster "$CLUSTER" --node "$node"
    is_up "$node" hydfsd || spawn "$node" hydfsd "$BIN/hydfsd" --cluster "$CLUSTER" --node "$node"
}

# From inside the folder: ssh would expand percent signs in its name, and more.
ssh_works() {
    (
        cd "$RUN" || exit 1
        exec timeout 5 ssh -F none -n -i id_ed25519 -p "$SSH_PORT" -l "$(id -un)" -o UserKnownHostsFile=known_hosts \
            -o GlobalKnownHostsFile=none -o IdentitiesOnly=yes -o BatchMode=yes -o LogLevel=ERROR "${ADDR[$1]}" true 2>>"$1/log/ssh-check.out"
    )
}

# members_seen NODE: how many that node's memberd calls alive.
members_seen() {
    timeout 5 "$BIN/memberd" list_mem --cluster "$CLUSTER" --node "$1" --json 2>/dev/null |
        grep -oE '"state" *: *"alive"' | grep -c . || true
}

# How many nodes the storage ring has, by its own word.
ring_size() {
    local list
    list=$(timeout 5 "$BIN/hydfs" --cluster "$CLUSTER" list_mem_ids 2>/dev/null) || { echo 0 && return; }
    awk -v names="${NAMES[*]}" '
        BEGIN { split(names, list, " "); for (i in list) known[list[i]] = 1 }
        { named = 0; up = 1
          for (i = 1; i <= NF; i++) { if ($i in known) named = 1; if ($i ~ /^(failed|left|suspect|dead|down)$/) up = 0 }
          n += named && up }
        END { print n + 0 }' <<<"$list"
}

# dead_daemon NODE...: names the first daemon that was started and has ended.
dead_daemon() {
    local node what pid
    for node in "$@"; do
        for what in $DAEMONS; do
            pid=$(cat "$RUN/$node/$what.pid" 2>/dev/null) || continue
            if ! kill -0 "$pid" 2>/dev/null; then
                echo "$node $what"
                return 0
            fi
        done
    done
    return 1
}

show_log() {
    local file=$1
    [ -s "$file" ] || return 0
    printf '%s--- last lines of %s%s\n' "$BOLD" "$file" "$PLAIN" >&2
    tail -n 8 "$file" >&2
}

# wait_ready NODE...: until these nodes let SSH in and all see each other in membership and storage. 1: they did not.
wait_ready() {
    local deadline=$((SECONDS + PATIENCE)) node logged_in seeing ring dead what
    local -A entered=()
    while :; do
        seeing=0
        for node in "$@"; do
            if [ -z "${entered[$node]:-}" ] && ssh_works "$node"; then entered[$node]=1; fi
            if [ "$(members_seen "$node")" = $# ]; then seeing=$((seeing + 1)); fi
        done
        logged_in=${#entered[@]} ring=$(ring_size)
        progress "ssh $logged_in/$#, membership complete on $seeing/$#, storage ring $ring/$#"
        if [ "$logged_in" -eq $# ] && [ "$seeing" -eq $# ] && [ "$ring" = $# ]; then
            progress_end
            return 0
        fi
        if dead=$(dead_daemon "$@"); then
            progress_end
            read -r node what <<<"$dead"
            printf '%serror:%s %s of %s has ended\n' "$RED" "$PLAIN" "$what" "$node" >&2
            show_log "$RUN/$node/log/$what.log"
            show_log "$RUN/$node/log/$what.out"
            return 1
        fi
        if [ "$SECONDS" -ge "$deadline" ]; then
            progress_end
            printf '%serror:%s not all nodes see all after %d s: ssh %d/%d, membership %d/%d, storage ring %d/%d\n' \
                "$RED" "$PLAIN" "$PATIENCE" "$logged_in" $# "$seeing" $# "$ring" $# >&2
            timeout 5 "$BIN/hydfs" --cluster "$CLUSTER" list_mem_ids 2>&1 | sed 's/^/    hydfs list_mem_ids: /' >&2 || true
            for node in "$@"; do
                if [ -z "${entered[$node]:-}" ]; then
                    show_log "$RUN/$node/log/sshd.log"
                    show_log "$RUN/$node/log/ssh-check.out"
                fi
                for what in memberd hydfsd; do
                    show_log "$RUN/$node/log/$what.log"
                    show_log "$RUN/$node/log/$what.out"
                done
            done
            return 1
        fi
        sleep 0.1
    done
}

up() {
    local n='' fresh='' arg node complete=yes any='' was_user
    for arg in "$@"; do
        case $arg in
        --fresh) fresh=yes ;;
        *)
            [[ $arg =~ ^[1-9][0-9]*$ ]] || fail "\`$arg\` is no number of nodes; example: demo/cluster.sh up 3"
            n=$arg
            ;;
        esac
    done
    [ -z "$n" ] || [ $((FIRST + n - 1)) -le 254 ] || fail "$n nodes from $SUBNET.$FIRST on would need addresses above $SUBNET.254"
    [[ $RUN != *$'\n'* ]] || fail "the folder $RUN has a line break in its name, which SSH settings cannot hold; set RAINSTORM_RUN to another"
    need_ssh
    need_programs
    lock
    read_nodes
    scan_cluster "$RUN"
    for node in "${NAMES[@]}"; do
        for arg in $DAEMONS; do if is_up "$node" "$arg"; then any=yes; else complete=''; fi; done
    done

    if [ -n "$any" ]; then
        [ -z "$n" ] || [ "$n" -eq ${#NAMES[@]} ] ||
            fail "a cluster of $(nodes ${#NAMES[@]}) is running in $RUN; to have $n: demo/cluster.sh down && demo/cluster.sh up $n --fresh"
        [ -z "$fresh" ] || fail "a cluster is running in $RUN; --fresh would throw its data away: demo/cluster.sh down first"
        if [ -n "$complete" ]; then
            say "already up, nothing changed: $(nodes ${#NAMES[@]}), cluster file $CLUSTER"
            return 0
        fi
    else
        if [ -n "$fresh" ] && [ -e "$CLUSTER" ]; then
            end_cluster "$RUN" # a leader or worker may be left even where no daemon is
            remove_cluster
            read_nodes
        fi
        if [ -e "$CLUSTER" ]; then
            [ -z "$n" ] || [ "$n" -eq ${#NAMES[@]} ] ||
                fail "$RUN holds the data of a cluster of $(nodes ${#NAMES[@]}); start that one (demo/cluster.sh up ${#NAMES[@]}), or begin anew without its data (demo/cluster.sh up $n --fresh)"
            [ "${ADDR[${NAMES[0]}]}" = "$SUBNET.$FIRST" ] || [ -z "${RAINSTORM_SUBNET:-}${RAINSTORM_FIRST:-}" ] ||
                fail "$RUN holds a cluster whose first address is ${ADDR[${NAMES[0]}]}, not $SUBNET.$FIRST; unset RAINSTORM_SUBNET and RAINSTORM_FIRST, or add --fresh"
        else
            step "making a cluster of $(nodes "${n:-3}") in $RUN"
            make_cluster "${n:-3}"
            read_nodes
        fi
    fi
    was_user=$(awk -F'"' '/^user *=/ { print $2; exit }' "$CLUSTER")
    [ "$was_user" = "$(id -un)" ] || fail "$RUN was made by $was_user, you are $(id -un); use RAINSTORM_RUN for a folder of your own"

    step "starting $(nodes ${#NAMES[@]}), from ${NAMES[0]} at ${ADDR[${NAMES[0]}]} on"
    # Half a cluster would only confuse the next command. A node that ran before stays.
    if [ -z "$any" ]; then
        trap 'end_cluster "$RUN"' EXIT
        trap 'trap "" INT TERM; exit 130' INT TERM
    fi
    for node in "${NAMES[@]}"; do start_daemons "$node"; done
    wait_ready "${NAMES[@]}" || exit 1
    trap - EXIT INT TERM
    good "up: $(nodes ${#NAMES[@]}); cluster file $CLUSTER"
}

down() {
    [ -d "$RUN" ] || { say "nothing runs: $RUN does not exist" && return 0; }
    lock
    scan_cluster "$RUN"
    local count=${#PROC_NODE[@]}
    if [ "$count" -eq 0 ]; then
        say "nothing runs in $RUN"
    else
        end_cluster "$RUN" || fail "some processes of $RUN do not end: $(pids_of '*' | tr '\n' ' ')"
        say "down: $count processes ended"
    fi
    rm -f "$RUN"/*/{sshd,memberd,hydfsd}.pid
}

status() {
    read_nodes
    [ ${#NAMES[@]} -gt 0 ] || { say "no cluster in $RUN; start one: demo/cluster.sh up" && return 1; }
    scan_cluster "$RUN"
    local node what pid all=0
    printf '%s%-6s %-15s %8s %8s %8s %8s%s\n' "$BOLD" NODE ADDRESS SSHD MEMBERD HYDFSD WORKERS "$PLAIN"
    for node in "${NAMES[@]}"; do
        printf '%-6s %-15s' "$node" "${ADDR[$node]}"
        for what in $DAEMONS; do
            pid=$(pids_of "$node" "$what" | head -n 1)
            if [ -z "$pid" ]; then all=1; fi
            printf ' %8s' "${pid:-down}"
        done
        printf ' %8d\n' "$(pids_of "$node" worker | wc -l)"
    done
    return "$all"
}

known_node() {
    [ $# -eq 1 ] || { usage >&2 && exit 2; }
    read_nodes
    [ ${#NAMES[@]} -gt 0 ] || fail "no cluster in $RUN; start one: demo/cluster.sh up"
    [ -n "${ADDR[$1]:-}" ] || fail "no node \`$1\`; there are ${NAMES[*]}"
}

kill_node() {
    known_node "$@"
    lock
    local pids
    pids=$(kill_at_once "$RUN" "$1") || fail "some processes of $1 do not end"
    if [ -z "$pids" ]; then
        say "$1 was down already"
    else
        rm -f "$RUN/$1"/{sshd,memberd,hydfsd}.pid
        say "$1 killed: $(wc -w <<<"$pids") processes at once ($(xargs <<<"$pids"))"
    fi
}

start_node() {
    known_node "$@"
    need_ssh
    need_programs
    lock
    scan_cluster "$RUN"
    local node what complete=yes running=()
    for what in $DAEMONS; do is_up "$1" "$what" || complete=''; done
    if [ -n "$complete" ]; then
        say "$1 is up already, nothing changed"
        return 0
    fi
    start_daemons "$1"
    for node in "${NAMES[@]}"; do if [ "$node" = "$1" ] || is_up "$node" memberd; then running+=("$node"); fi; done
    wait_ready "${running[@]}" || exit 1
    good "$1 is up; ${#running[@]} of ${#NAMES[@]} nodes run"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
up) up "$@" ;;
down) down ;;
status) status ;;
kill-node) kill_node "$@" ;;
start-node) start_node "$@" ;;
-h | --help | help) usage ;;
*)
    usage >&2
    exit 2
    ;;
esac
