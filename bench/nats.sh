# shellcheck shell=bash
# NATS JetStream as a peer of HyDFS: three servers of Debian's package `nats-server` on this machine, streams of three replicas in files.

NATS_LOAD=$ROOT/target/nats/release/nats-load
NATS_PIDS=()

nats_possible() {
    command -v nats-server >/dev/null || { echo 'nats-server is not installed (apt-get install nats-server): no comparison with it' >&2; return 1; }
    # A name lookup of its own and a TLS library are what takes its two minutes.
    CARGO_TARGET_DIR=$ROOT/target/nats cargo build --release --quiet --manifest-path "$ROOT/bench/nats/Cargo.toml"
}

# nats_up FOLDER SUBNET: sets NATS to the servers' addresses.
nats_up() {
    local folder=$1 i routes='' n
    NATS=''
    for i in 1 2 3; do routes+="nats://$2.2$i:6222,"; done
    for i in 1 2 3; do
        mkdir -p "$folder/n$i"
        cat >"$folder/n$i.conf" <<CONF
server_name: n$i
listen: $2.2$i:4222
jetstream { store_dir: "$folder/n$i", max_memory_store: 1G, max_file_store: 50G }
cluster { name: bench, listen: $2.2$i:6222, routes: [ ${routes%,} ] }
CONF
        nats-server -c "$folder/n$i.conf" -l "$folder/n$i.log" &
        NATS_PIDS+=($!)
        NATS+=${NATS:+,}nats://$2.2$i:4222
    done
    for n in $(seq 300); do
        if grep -qs 'JetStream cluster new metadata leader' "$folder"/n?.log; then return; fi
        sleep 0.1
    done
    fail "the NATS servers chose no leader within $((n / 10)) s; $folder/n1.log says more"
}

nats_down() {
    [ ${#NATS_PIDS[@]} -eq 0 ] || kill "${NATS_PIDS[@]}" 2>/dev/null || true
    wait "${NATS_PIDS[@]}" 2>/dev/null || true
    NATS_PIDS=()
}

n() { "$NATS_LOAD" "$NATS" "$@"; }
