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

# Seconds until what has to come is called missing, on any machine however busy. It decides when to give up, never what is right.
# shellcheck disable=SC2034
PATIENCE=120

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

# ask WHAT DEBIAN FEDORA ARCH ALPINE COMMAND...: COMMAND shows that what is needed works; a name on the path does not show that. Where it does
# not work, its packages are installed if they can be; else the script ends and says what to type.
ask() {
    local what=$1 debian=$2 line
    line=$(install_line "$2" "$3" "$4" "$5")
    shift 5
    if "$@" >/dev/null 2>&1; then return 0; fi
    # shellcheck disable=SC2086  # one argument per package
    apt_install $debian || true
    hash -r
    "$@" >/dev/null 2>&1 || fail "$what is missing; type: $line"
}

# need PROGRAM HOW: the program is on the path, or the script ends and says what to type.
need() {
    command -v "$1" >/dev/null || fail "$1 is missing; type: $2"
}

# have PROGRAM...: all of them are on the path.
have() {
    local program
    for program in "$@"; do command -v "$program" >/dev/null || return 1; done
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
have_ssh() { find_sshd && have ssh ssh-keygen; }
need_ssh() {
    local before=yes
    find_sshd || before=''
    ask 'ssh, ssh-keygen or sshd (each node of the local cluster has its own)' 'openssh-server openssh-client' 'openssh-server openssh-clients' openssh \
        'openssh-server openssh-client' have_ssh
    if [ -z "$before" ] && [ -d /run/systemd/system ]; then
        # Only the program is wanted: the system's own sshd stays off, now and after a reboot.
        systemctl disable ssh.service ssh.socket >/dev/null 2>&1 || true
    fi
    need_tools
}

# What the scripts use of the ordinary tools, beyond POSIX.
gnu_tools() {
    local file=$ROOT/Cargo.toml
    date -d '2020-01-01T00:00:00Z' +%s.%6N && realpath -m -- "$file" && stat -c %s "$file" && printf '1\n' | sort -V &&
        env --default-signal=HUP true && timeout 5 tail -n 0 -s 0.1 -f --pid=999999999 "$file" && printf 'a\0' | sort -z | xargs -0 -r -n 1 && find "$file" -print0 &&
        printf 'a\n' | grep -aoE a && printf 'a\n' | sed -u -E 's/a/b/' && have nohup base64 cksum cmp comm dd seq tee
}
need_tools() {
    ask 'setsid or flock' util-linux util-linux util-linux util-linux have setsid flock
    ask 'one of the GNU tools (date, sort, stat, tail, env, cmp, find, xargs, grep, sed)' 'coreutils diffutils findutils grep sed' 'coreutils diffutils findutils grep sed' \
        'coreutils diffutils findutils grep sed' 'coreutils diffutils findutils grep sed' gnu_tools
    ask 'awk' mawk gawk gawk gawk awk 'BEGIN { exit }'
}

# Sockets, networks, mounts and namespaces: the tests look at them and make them.
network_tools() { have ip ss unshare nsenter mount umount && ip -V && ss -Hltn; }
need_networks() {
    ask 'ip, ss, unshare, nsenter, mount or umount' 'iproute2 util-linux mount' 'iproute util-linux' 'iproute2 util-linux' 'iproute2 iproute2-ss util-linux' network_tools
}

# A compiler alone is not enough: headers, and what links.
compiles() {
    printf '#include <stdio.h>\n#include <dlfcn.h>\n#include <linux/if_tun.h>\nint main(void) { return puts("") < 0; }\n' | cc -x c -o /dev/null -
}
need_cc() {
    ask 'a C compiler with its headers (cc)' 'gcc libc6-dev' 'gcc glibc-devel kernel-headers' 'gcc linux-api-headers' 'gcc musl-dev linux-headers' compiles
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

# All that the SDK, its tests, the demos and the measurements import. Some systems ship Python in pieces.
PYTHON_MODULES='argparse, array, atexit, base64, collections, contextlib, datetime, html, inspect, io, itertools, json, math, operator, os, pathlib, pickle, random, re, secrets, select, shutil, signal, socket, stat, statistics, struct, subprocess, sys, tempfile, threading, time, traceback, unittest, urllib, zipfile'
need_python() {
    ask 'python3 with its whole standard library (unittest and others)' python3 python3 python python3 python3 -c "import $PYTHON_MODULES"
}

need_programs() {
    local program
    for program in memberd hydfsd hydfs leader worker rainstormctl; do
        [ -x "$BIN/$program" ] || fail "$BIN/$program is missing; type: cargo build --release   (or say with RAINSTORM_BIN where the programs are)"
    done
}
