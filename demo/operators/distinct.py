#!/usr/bin/env python3
"""Python SDK, aggregate: how many different values each key has, and which one is the most frequent.

Puts out the number whenever it grows, and at the end `number, most frequent value, how often`.
"""

from collections import Counter

import rainstorm


@rainstorm.aggregate(initial=Counter)
def distinct(seen, value):
    seen[value] += 1
    return seen, b"%d" % len(seen) if seen[value] == 1 else None


@distinct.at_end
def summary(key, seen):
    # Of equally frequent ones the smallest: the result must not depend on the order of arrival.
    value, times = min(seen.items(), key=lambda item: (-item[1], item[0]))
    return b"%d %s %d" % (len(seen), value, times)


rainstorm.run()
