#!/bin/sh
# Text protocol, aggregate, in awk: passes a line on when it is longer than all before with its key.
# mawk waits for full buffers unless told that somebody is waiting.
case $(awk -W version 2>&1 </dev/null) in mawk*) set -- -W interactive ;; *) set -- ;; esac
LC_ALL=C exec awk "$@" '
    NR % 2 { key = $0; next }                          # `key: K`
    length > longest[key] { longest[key] = length; print "forward"; print; fflush(); next }
    { print "filter"; fflush() }'
