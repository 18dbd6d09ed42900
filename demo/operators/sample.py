#!/usr/bin/env python3
"""Python SDK, filter: passes one tuple of N, drawn at random: `sample.py N`.

What it passes is not determined by its input: RainStorm logs what it has put out, instead of asking it again.
"""

import random
import sys

import rainstorm

ONE_OF = int(sys.argv[1]) if len(sys.argv) > 1 else 10
draw = random.SystemRandom().random


@rainstorm.filter(deterministic=False)
def sample(value):
    return draw() * ONE_OF < 1


rainstorm.run()
