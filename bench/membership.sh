#!/usr/bin/env bash
# How fast a killed node is noticed, and what watching costs: N memberds on this machine with their defaults, one killed
# with -9 and started again, TRIALS times; then the same with serf (Debian's package), if it is installed.
#
#   bench/membership.sh [-n NODES] [-t TRIALS] [-p PROTOCOL] [-s SUBNET] [--no-serf]
#   bench/membership.sh --steady MINUTES [--loss 0.05]   nobody is killed: is anybody called failed?
#   bench/membership.sh --simulated       tables of groups of up to 1,000 nodes and of losses of up to 30 %; docs/plots
#
# Prints, per program: time from the kill to the first suspicion anywhere and to `failed` at all the others (median, worst),
# and bytes per second and node of a quiet group on the wire (UDP and TCP payload with IP headers, as `lo` sees them; for
# this the script listens on `lo` and must be root; without, memberd's own counters are shown and serf's traffic is not).
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
NODES=10 TRIALS=20 PROTOCOL=pingack SUBNET=127.0.77 SERF=1 QUIET=${QUIET:-30} SIMULATED='' STEADY=0 LOSS=0
while [ $# -gt 0 ]; do
    case $1 in
        -n) NODES=$2; shift 2 ;;
        -t) TRIALS=$2; shift 2 ;;
        -p) PROTOCOL=$2; shift 2 ;;
        -s) SUBNET=$2; shift 2 ;;
        --no-serf) SERF=0; shift ;;
        --steady) STEADY=$2; shift 2 ;;
        --loss) LOSS=$2; shift 2 ;;
        --simulated) SIMULATED=1; shift ;;
        *) sed -n '2,11p' "$0" >&2; exit 2 ;;
    esac
done
if [ -n "$SIMULATED" ]; then
    points=$(mktemp -d)
    trap 'rm -rf "$points"' EXIT
    mkdir -p "$HERE/docs/plots"
    cd "$HERE"
    RAINSTORM_FIGURES=$points cargo test -p memberd --lib --release -- --nocapture sim::figures::figures
    draw() { python3 bench/plot.py "docs/plots/membership-$1.svg" "$2" "$3" "$4" <"$points/membership-$1.tsv"; }
    draw failed 'Crash to failed at all (simulated)' nodes 'seconds, median'
    draw bytes 'Traffic of a quiet group (simulated)' nodes 'bytes/s sent per node'
    draw false 'False suspicions, 100 nodes (simulated)' 'datagrams lost, %' 'per node and minute'
    exit
fi
BIN=${BIN:-$HERE/target/release}
[ -x "$BIN/memberd" ] || { echo "no $BIN/memberd; build it: cargo build --release -p memberd (or set BIN)" >&2; exit 1; }
WORK=$(mktemp -d)
exec python3 "$HERE/bench/membership.py" "$BIN/memberd" "$WORK" "$NODES" "$TRIALS" "$PROTOCOL" "$SUBNET" "$SERF" "$QUIET" "$STEADY" "$LOSS"
