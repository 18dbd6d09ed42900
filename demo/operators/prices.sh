#!/bin/sh
# Text protocol, transform, in awk: `item price` to the price in cents. It dies of a price that is none.
# mawk waits for full buffers unless told that somebody is waiting.
case $(awk -W version 2>&1 </dev/null) in mawk*) set -- -W interactive ;; *) set -- ;; esac
LC_ALL=C exec awk "$@" '
    NR % 2 { next }                                    # `key: K`; the answer keeps it
    $NF !~ /^[0-9]+\.[0-9][0-9]$/ { print "this is no price: " $NF | "cat >&2"; close("cat >&2"); exit 3 }
    { sub(/\./, "", $NF); print "forward"; print "value: " $NF + 0; fflush() }'
