#!/usr/bin/env bash
# Both commands of the README on a machine that has nothing: a bare Debian root (minbase, git, curl, Rust) with its own processes, mounts and
# network, made from this machine's package source and with its Rust toolchain, removed at the end whatever happened. For releases; by hand, not in CI.
set -euo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../demo/lib.sh"

usage() {
    cat <<'TXT'
usage: tests/fresh.sh [--keep] [--registry] [--log FILE] [COMMAND...]

Clones HEAD into a bare root and runs there demo/quickstart.sh and then demo/test.sh, or each COMMAND (one shell word each).
Prints how long each took. Exit code 0: all of them ended well. Needs root, debootstrap, slirp4netns, and about 6 GB under $TMPDIR.

  --keep       the root stays; the last line says where
  --registry   cargo finds what this machine has downloaded already (else it downloads all, as on a new machine)
  --log FILE   what the commands say (default: run/fresh-DATE.log)
TXT
}

KEEP='' REGISTRY='' LOG=$ROOT/run/fresh-$(date +%Y%m%d-%H%M%S).log INSIDE=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit 0 ;;
        --keep) KEEP=yes ;;
        --registry) REGISTRY=yes ;;
        --log) LOG=$(realpath -m -- "${2:?--log FILE}") && shift ;;
        --inside) INSIDE=$2 && shift ;; # what this script says to itself
        -*) usage >&2 && exit 2 ;;
        *) break ;;
    esac
    shift
done
[ $# -gt 0 ] || set -- demo/quickstart.sh demo/test.sh
[ "$EUID" -eq 0 ] || fail 'this makes a root file system and namespaces: it must be run as root (sudo tests/fresh.sh)'

# --- outside: the namespaces, the network, the end ---

# The suite and the source as this machine's apt has them: `URI CODENAME COMPONENT`, of Debian only.
sources() {
    # shellcheck disable=SC2016  # apt's variables
    apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' | awk '$4 == "Debian" { print $1, $2, $3 }'
}

FOLDER='' SPACE='' NETWORK=''
finish() {
    trap '' INT TERM
    local pid
    for pid in $SPACE $NETWORK; do kill -KILL "$pid" 2>/dev/null || true; done
    for pid in $SPACE $NETWORK; do wait "$pid" 2>/dev/null || true; done
    # Every mount was the namespaces' own, and they are gone; a second lock on the door all the same.
    if [ -n "$KEEP" ]; then say "kept: $FOLDER/root"; else rm -rf --one-file-system "$FOLDER"; fi
}

outside() {
    local code=0
    ask debootstrap debootstrap debootstrap debootstrap debootstrap have debootstrap
    ask slirp4netns slirp4netns slirp4netns slirp4netns slirp4netns have slirp4netns
    need_networks
    need_cargo
    need git "$(install_line git git git git)"
    [ -n "$(sources)" ] || fail 'no package source of Debian is configured here (apt-get indextargets); run this on Debian'
    FOLDER=$(realpath "$(mktemp -d "${TMPDIR:-/tmp}/rainstorm-fresh.XXXXXX")")
    trap finish EXIT
    trap 'trap "" INT TERM; exit 130' INT TERM
    mkdir -p "$(dirname "$LOG")"
    : >"$LOG"
    mkfifo "$FOLDER/network"
    # All that is started in there dies with its first process, and that with unshare.
    unshare --mount --net --pid --fork --kill-child=KILL -- "${BASH_SOURCE[0]}" ${REGISTRY:+--registry} --log "$LOG" --inside "$FOLDER" "$@" </dev/null &
    SPACE=$!
    # Its loopback is its own: nothing that runs on this machine meets its addresses.
    until [ "$(readlink "/proc/$SPACE/ns/net" 2>/dev/null)" != "$(readlink /proc/self/ns/net)" ]; do
        kill -0 "$SPACE" 2>/dev/null || fail 'no namespaces can be made here (unshare failed); run this as root outside of a container'
        sleep 0.05
    done
    slirp4netns --configure --mtu=65520 --disable-host-loopback --ready-fd 3 "$SPACE" tap0 3>"$FOLDER/network" >"$FOLDER/slirp.log" 2>&1 &
    NETWORK=$!
    wait "$SPACE" || code=$?
    return "$code"
}

# --- inside: the root, the commands ---

# What cargo, git and curl of this machine are told about registries, proxies and certificates. No secrets.
settings() {
    env -0 | grep -zE '^(CARGO_(REGISTRIES|REGISTRY|SOURCE|HTTP|NET)_|(HTTPS?|NO|ALL)_PROXY=|(https?|no|all)_proxy=)' | grep -zvE '^[^=]*(TOKEN|CREDENTIAL)' || true
}

make_root() {
    local root=$1 suite uri certificates
    read -r uri suite _ < <(sources | grep -E " $(. /etc/os-release && printf '%s' "$VERSION_CODENAME") main$") ||
        fail 'the package source of this Debian is not among those of apt-get indextargets'
    debootstrap --variant=minbase --include=git,curl,ca-certificates "$suite" "$root" "$uri" >>"$LOG" 2>&1 || fail "debootstrap failed; its words are in $LOG"
    sources | sed 's/^/deb /' >"$root/etc/apt/sources.list"
    apt-config dump Acquire | grep -E '^Acquire::(https?|Retries|Check-|ForceIPv)' >"$root/etc/apt/apt.conf.d/00machine" || true
    # The machine may stand behind somebody who signs for others.
    for certificates in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt; do
        if [ -s "$certificates" ]; then cp -L "$certificates" "$root/etc/ssl/certs/ca-certificates.crt" && break; fi
    done
    cp "$FOLDER/resolv.conf" "$root/etc/resolv.conf"
    printf '127.0.0.1 localhost fresh\n' >"$root/etc/hosts"
    mkdir -p "$root/opt/rust" "$root/root/.cargo"
    mount --bind "$(rustc --print sysroot)" "$root/opt/rust"
    mount -o remount,bind,ro "$root/opt/rust"
    local cargo=${CARGO_HOME:-$HOME/.cargo} file
    for file in config.toml config; do [ ! -e "$cargo/$file" ] || cp -L "$cargo/$file" "$root/root/.cargo/"; done
    if [ -n "$REGISTRY" ] && [ -d "$cargo/registry" ]; then cp -r "$cargo/registry" "$root/root/.cargo/"; fi
    # The clone knows where it came from by nothing.
    GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' git clone -q --no-local "$ROOT" "$root/root/rainstorm"
    git -C "$root/root/rainstorm" remote remove origin
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
}

inside() {
    local root=$FOLDER/root command began code worst=0 ready
    local -a given=()
    read -r -n 1 ready <"$FOLDER/network" || true
    [ "$ready" = 1 ] || fail "there is no network: $(tail -n 1 "$FOLDER/slirp.log")"
    ip link set lo up
    # slirp4netns answers for whatever this machine asks.
    printf 'nameserver 10.0.2.3\n' >"$FOLDER/resolv.conf"
    mount --bind "$FOLDER/resolv.conf" "$(realpath /etc/resolv.conf)"
    mount -t proc proc /proc
    began=$SECONDS
    step "a bare root in $root"
    make_root "$root"
    say "made in $((SECONDS - began)) s: $(git -C "$root/root/rainstorm" log -1 --format='%h %s')"
    mapfile -d '' -t given < <(settings)
    local -a times=()
    for command in "$@"; do
        step "$command"
        began=$SECONDS code=0
        printf '\n==> %s\n' "$command" >>"$LOG"
        chroot "$root" /usr/bin/env -i HOME=/root USER=root LANG=C.UTF-8 TERM=dumb PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            ${given[@]+"${given[@]}"} bash -c "cd /root/rainstorm && $command" </dev/null 2>&1 | tee -a "$LOG" || code=$?
        times+=("$(printf '%5d s, exit code %d: %s' $((SECONDS - began)) "$code" "$command")")
        [ "$code" -eq 0 ] || worst=1
    done
    step 'in a bare root'
    printf '%s\n' "${times[@]}" | tee -a "$LOG" | sed 's/^/    /'
    say "what they said: $LOG"
    return "$worst"
}

if [ -n "$INSIDE" ]; then
    FOLDER=$INSIDE
    inside "$@"
else
    outside "$@"
fi
