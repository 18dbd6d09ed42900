#!/usr/bin/env python3
"""Python SDK, transform: tags each line with its mood, counted from words, and makes the mood the key."""

import re

import rainstorm

GOOD = frozenset("good great fine nice fast well works thanks win success ok love better best".split())
BAD = frozenset("bad wrong fail fails failed error bug broken slow lost never worse worst panic kill".split())
NOT = frozenset(("not", "no", "never", "isn't", "don't", "won't", "can't"))
WORD = re.compile(r"[a-z']+")


@rainstorm.transform(text=True)
def mood(value):
    score, sign = 0, 1
    for word in WORD.findall(value.lower()):
        if word in GOOD:
            score += sign
        elif word in BAD:
            score -= sign
        # "not good" is bad, and so is "not very good".
        sign = -1 if word in NOT else sign if word in ("very", "a", "so") else 1
    name = "good" if score > 0 else "bad" if score < 0 else "plain"
    return name, f"{score:+d}\t{value}"


rainstorm.run()
