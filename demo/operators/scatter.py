#!/usr/bin/env python3
"""Python SDK, transform: gives each tuple a random key, which spreads it over the tasks of the next stage.

Asked again, it draws other keys: RainStorm logs what it has put out, instead of asking it again.
"""

import random

import rainstorm

draw = random.SystemRandom().randrange


@rainstorm.transform(deterministic=False)
def scatter(value):
    return b"%06d" % draw(1_000_000), value


rainstorm.run()
