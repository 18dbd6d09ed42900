#!/usr/bin/env bash
# Sets up the systems that bench/compare.sh compares with, from the package registries alone. What cannot be had is said and left out.
#   bench/peers/setup.sh     into ${RAINSTORM_PEERS:-~/.cache/rainstorm-peers}, outside of the tree; what is there already is kept
set -uo pipefail
# shellcheck source=demo/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../demo/lib.sh"

PEERS=${RAINSTORM_PEERS:-$HOME/.cache/rainstorm-peers}
HERE=$ROOT/bench/peers
FLINK=2.3.0
LOG=$PEERS/setup.log
mkdir -p "$PEERS"
: >"$LOG"

# Java 17 is what both engines support; a newer one may be first on the path.
find_java() {
    local place
    for place in "${JAVA_HOME:-}" /usr/lib/jvm/*17*; do
        if [ -x "$place/bin/javac" ] && "$place/bin/java" -version 2>&1 | grep -q '"17\.'; then
            JAVA=$place
            return 0
        fi
    done
    return 1
}

java_there() { find_java || { apt_install openjdk-17-jdk-headless && find_java; }; }

venv_there() {
    "$PEERS/venv/bin/python" -c '' 2>/dev/null || python3 -m venv "$PEERS/venv" || { apt_install python3-venv && python3 -m venv "$PEERS/venv"; }
}

wheel() { "$PEERS/venv/bin/pip" install --quiet --disable-pip-version-check "$(grep "^$1==" "$HERE/requirements.txt")"; }

spark_there() { java_there && venv_there && wheel pyspark && "$PEERS/venv/bin/python" -c 'import pyspark'; }

# The wheel is Flink's own distribution; its jars are all that is wanted, and pip would ask for much more with it.
flink_jars() {
    local wheel
    [ -s "$PEERS/flink/$FLINK" ] && return 0
    rm -rf "$PEERS/flink"
    mkdir -p "$PEERS/flink"
    "$PEERS/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps -d "$PEERS/flink" "apache-flink-libraries==$FLINK" || return 1
    wheel=$(echo "$PEERS"/flink/*.whl)
    "$PEERS/venv/bin/python" - "$wheel" "$PEERS/flink/lib" <<'PY' || return 1
import pathlib, re, sys, zipfile

lib = pathlib.Path(sys.argv[2])
lib.mkdir(exist_ok=True)
wheel = zipfile.ZipFile(sys.argv[1])
for name in wheel.namelist():
    if re.fullmatch(r"pyflink/lib/(flink-(dist|connector-files)|log4j-(api|core|slf4j-impl))-[0-9.]+\.jar", name):
        (lib / name.rsplit("/", 1)[1]).write_bytes(wheel.read(name))
PY
    rm -f "$wheel"
    echo "$FLINK" >"$PEERS/flink/$FLINK"
}

flink_there() {
    java_there && venv_there && flink_jars || return 1
    rm -rf "$PEERS/flink/classes"
    mkdir -p "$PEERS/flink/classes"
    "$JAVA/bin/javac" -proc:none -d "$PEERS/flink/classes" -cp "$PEERS/flink/lib/*" "$HERE/flink/FlinkPeer.java" &&
        "$JAVA/bin/jar" cf "$PEERS/flink/peer.jar" -C "$PEERS/flink/classes" .
}

renoir_there() {
    (need_cargo) && CARGO_TARGET_DIR=$PEERS/renoir cargo build --release --quiet --locked --manifest-path "$HERE/renoir/Cargo.toml"
}

tpchgen_there() { venv_there && wheel tpchgen-cli; }
typst_there() { venv_there && wheel typst; }

# try NAME FUNCTION [WHAT_WITHOUT_IT]
try() {
    step "$1"
    if "$2" >>"$LOG" 2>&1; then
        echo "$1" >>"$PEERS/have.new"
    else
        say "    $1 is missing: ${3:-it is left out of the comparison}. The last of $LOG:"
        tail -n 3 "$LOG" | sed 's/^/        /'
    fi
}

: >"$PEERS/have.new"
try spark spark_there
try flink flink_there
try renoir renoir_there
try tpchgen tpchgen_there "the table's rows are made by datasets/make.sh's own generator"
try typst typst_there 'docs/report/make.sh cannot set the report'
JAVA=''
find_java && echo "$JAVA" >"$PEERS/java"
mv "$PEERS/have.new" "$PEERS/have"
good "there: $(tr '\n' ' ' <"$PEERS/have")"
