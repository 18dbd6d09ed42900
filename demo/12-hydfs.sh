#!/usr/bin/env bash
# The file system by itself: appends from three nodes at once, replicas compared byte by byte, a lost node, flipped bits, the
# client's cache. Checked with cmp, sort and ls.
set -euo pipefail
# shellcheck source=demo/jobs.sh
. "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

need_cluster
need_python
begin 'hydfs: many appenders, identical replicas, nothing damaged is served'
cd "$WORK"
NODES=$(rs hydfs list_mem_ids | cut -f1 | sort | head -n 3 | xargs)
for node in $NODES; do seq -f "$node %.0f" 2000 >"$node.txt"; done
FILES=$(for node in $NODES; do printf '%s.txt ' "$node"; done)
: >empty

step "multiappend: $NODES append to one file at the same time, over SSH"
rs hydfs create empty "$DEST/log"
# shellcheck disable=SC2086  # several words
for _ in 1 2 3; do rs hydfs multiappend "$DEST/log" $NODES $FILES | sed 's/^/    /'; done
rs hydfs get "$DEST/log" got
# shellcheck disable=SC2086
cat $FILES $FILES $FILES | sort >expected
sort got | cmp - expected || fail "the file in HyDFS differs from the lines that were appended; compare $WORK/got and $WORK/expected"
# Each append is one piece: the file changes hands nine times at most.
CHANGES=$(cut -d' ' -f1 got | uniq | wc -l)
[ "$CHANGES" -le 9 ] || fail "the appends of different nodes are mixed: the file has $CHANGES pieces, at most 9 are right"
say "    18,000 lines, each append whole"

step 'merge, and each replica by itself'
rs hydfs merge "$DEST/log" | sed 's/^/    /'
replicas() { rs hydfs ls "$DEST/log" | tail -n +2 | cut -f1; }
same_everywhere() {
    local node
    for node in $(replicas); do
        rs hydfs getfromreplica "$node" "$DEST/log" "copy-$node"
        cmp "copy-$node" got || fail "the copy on $node differs"
    done
}
same_everywhere
rs hydfs ls "$DEST/log" | sed 's/^/    /'

VICTIM=$(replicas | tail -n 1)
step "$VICTIM is lost, and comes back"
"$ROOT/demo/cluster.sh" kill-node "$VICTIM" | sed 's/^/    /'
trap '"$ROOT/demo/cluster.sh" start-node "$VICTIM" >/dev/null 2>&1 || true; abandon' EXIT
rs hydfs append "${FILES%% *}" "$DEST/log"
cat "${FILES%% *}" >>got
rs hydfs fsck "$DEST" >fsck.txt 2>&1 && CODE=0 || CODE=$?
sed 's/^/    /' fsck.txt
if [ "$(rs hydfs list_mem_ids | grep -c alive)" -lt 3 ]; then
    { [ "$CODE" -eq 1 ] && grep -q "^UNDER-REPLICATED.$DEST/log" fsck.txt; } || fail 'fsck does not say that a copy is missing'
fi
"$ROOT/demo/cluster.sh" start-node "$VICTIM" | sed 's/^/    /'
rs hydfs merge "$DEST/log" | sed 's/^/    /'
same_everywhere

step 'a bit flips on a disk'
DAMAGED=$(replicas | tail -n 1)
python3 - "$RUN/$DAMAGED/data/hydfs/seg" <<'PY'
import os
import sys

for folder, _, files in os.walk(sys.argv[1]):
    for name in files:
        path = os.path.join(folder, name)
        data = open(path, "rb").read()
        at = data.find(b" 1500\n")
        if at >= 0 and b" 2000\n" in data:
            with open(path, "r+b") as file:
                file.seek(at)
                file.write(bytes([data[at] ^ 1]))
PY
rs hydfs fsck "$DEST" >fsck.txt 2>&1 && fail "hydfs fsck ended with 0 and did not find the flipped bit; it said: $(cat fsck.txt)"
sed 's/^/    /' fsck.txt
grep -q "^DAMAGED.$DEST/log.*$DAMAGED" fsck.txt || fail 'fsck does not name the file and the node'
rs hydfs merge "$DEST/log" | sed 's/^/    /'
same_everywhere
rs hydfs fsck "$DEST" | sed 's/^/    /'

step 'the cache serves what did not change, and never what is old'
export XDG_CACHE_HOME=$WORK/cache
for _ in 1 2; do rs hydfs --cache 16MiB get "$DEST/log" cached && cmp cached got; done
[ -n "$(find cache -name '*-0')" ] || fail 'the cache holds no block of the file that was read through it'
rs hydfs append "${FILES%% *}" "$DEST/log"
cat "${FILES%% *}" >>got
rs hydfs --cache 16MiB get "$DEST/log" cached
cmp cached got || fail 'the cache served an old file'

rs hydfs rm "$DEST/log"
good "shown: concurrent appends kept whole, three identical copies after a lost node and a flipped bit, a cache that is never stale"
