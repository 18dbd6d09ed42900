# shellcheck shell=bash
# What all scripts share: where things are, how they speak, and what the machine must have.

# shellcheck disable=SC2034  # the paths are for the scripts that source this file
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
RUN=$(realpath -m -- "${RAINSTORM_RUN:-$ROOT/run}")
CLUSTER=$RUN/cluster.toml
BIN=$(realpath -m -- "${RAINSTORM_BIN:-${CARGO_TARGET_DIR:-$ROOT/target}/release}")

# Colours only on a terminal, and not for those who asked for none (https://no-color.org).
BOLD='' RED='' GREEN='' DIM='' PLAIN=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
    BOLD=$'\e[1m' RED=$'\e[31m' GREEN=$'\e[32m' DIM=$'\e[2m' PLAIN=$'\e[0m'
fi

say() { printf '%s\n' "$*"; }
step() { printf '%s==> %s%s\n' "$BOLD" "$*" "$PLAIN"; }
good() { printf '%s%s%s\n' "$GREEN" "$*" "$PLAIN"; }
fail() {
    printf '%serror:%s %s\n' "$RED" "$PLAIN" "$*" >&2
    exit 1
}

# One line that is rewritten in place on a terminal; elsewhere one line for each new text.
PROGRESS=''
progress() {
    [ "$*" != "$PROGRESS" ] || return 0
    PROGRESS=$*
    if [ -t 1 ]; then printf '\r\e[K    %s' "$*"; else printf '    %s\n' "$*"; fi
}
progress_end() {
    [ -n "$PROGRESS" ] && [ -t 1 ] && printf '\r\e[K'
    PROGRESS=''
    return 0
}

# need PROGRAM HOW: the program is on the path, or the script ends and says what to type.
need() {
    command -v "$1" >/dev/null || fail "$1 is missing; type: $2"
}

# How this distribution installs: install_line DEBIAN FEDORA ARCH ALPINE (package names).
install_line() {
    local sudo=''
    [ "$EUID" -eq 0 ] || sudo='sudo '
    if command -v apt-get >/dev/null; then
        say "${sudo}apt-get install -y $1"
    elif command -v dnf >/dev/null; then
        say "${sudo}dnf install -y $2"
    elif command -v pacman >/dev/null; then
        say "${sudo}pacman -S --needed $3"
    elif command -v apk >/dev/null; then
        say "${sudo}apk add $4"
    else
        say "(your system's way to install) $1"
    fi
}

# As root on Debian and its like: installs packages; their daemons are not started. Elsewhere: fails.
apt_install() {
    [ "$EUID" -eq 0 ] && command -v apt-get >/dev/null || return 1
    local policy=/usr/sbin/policy-rc.d ours='' log done=1
    log=$(mktemp)
    say "installing $* (apt-get)"
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && ours=yes
    fi
    install() { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" </dev/null >>"$log" 2>&1; }
    if install "$@" || { apt-get update >>"$log" 2>&1 && install "$@"; }; then done=0; fi
    if [ -n "$ours" ]; then rm -f "$policy"; fi
    [ "$done" -eq 0 ] || tail -n 5 "$log" >&2
    rm -f "$log"
    return "$done"
}

# sshd is mostly outside of an ordinary user's path, and must be started by its full name.
find_sshd() {
    local place
    for place in "$(command -v sshd || true)" /usr/sbin/sshd /usr/local/sbin/sshd /usr/bin/sshd; do
        if [ -n "$place" ] && [ -x "$place" ]; then
            SSHD=$place
            return 0
        fi
    done
    return 1
}

SSHD=''
need_ssh() {
    local how
    how=$(install_line 'openssh-server openssh-client' 'openssh-server openssh-clients' openssh 'openssh-server openssh-client')
    if ! find_sshd; then
        if apt_install openssh-server openssh-client && [ -d /run/systemd/system ]; then
            # Only the program is wanted: the system's own sshd stays off, now and after a reboot.
            systemctl disable ssh.service ssh.socket >/dev/null 2>&1 || true
        fi
        find_sshd || fail "sshd is missing (each node of the local cluster has its own); type: $how"
    fi
    need ssh "$how"
    need ssh-keygen "$how"
    local tool
    for tool in setsid flock timeout; do need "$tool" "$(install_line 'util-linux coreutils' 'util-linux coreutils' 'util-linux coreutils' 'util-linux coreutils')"; done
}

need_cc() {
    command -v cc >/dev/null || apt_install gcc libc6-dev || true
    need cc "$(install_line 'gcc libc6-dev' gcc gcc 'gcc musl-dev')"
}

need_cargo() {
    # rustup puts cargo where a shell that was opened before does not look.
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH=$HOME/.cargo/bin:$PATH; fi
    need cargo "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh   (then open a new shell)"
    local wanted have
    wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$ROOT/Cargo.toml")
    have=$(rustc --version | awk '{ print $2 }')
    [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ] ||
        fail "Rust is $have here and must be $wanted or newer; type: rustup update stable"
}

need_python() {
    command -v python3 >/dev/null || apt_install python3-minimal || true
    need python3 "$(install_line python3-minimal python3 python python3)"
}

need_programs() {
    local program
    for program in memberd hydfsd hydfs leader worker rainstormctl; do
        [ -x "$BIN/$program" ] || fail "$BIN/$program is missing; type: cargo build --release   (or say with RAINSTORM_BIN where the programs are)"
    done
}
