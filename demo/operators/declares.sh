#!/bin/sh
# Text protocol, filter, in awk: passes the lines of Rust that declare a function.
# mawk waits for full buffers unless told that somebody is waiting.
case $(awk -W version 2>&1 </dev/null) in mawk*) set -- -W interactive ;; *) set -- ;; esac
LC_ALL=C exec awk "$@" '
    NR % 2 { next }                                    # `key: K`; the answer keeps it
    /[^A-Za-z0-9_]fn [A-Za-z_]/ { print "forward"; print; fflush(); next }
    { print "filter"; fflush() }'
