"""Operators for RainStorm in Python.

A function with a decorator is an operator; `run()` at the end of the program makes the program one::

    #!/usr/bin/env python3
    import rainstorm

    @rainstorm.filter
    def long(value):
        return len(value) > 80

    rainstorm.run()

Keys and values are bytes, or str with `text=True`. A function that takes `value` alone is not sent the keys.

- ``@filter``: `f(value)` or `f(key, value)`; what it returns is true for tuples that pass.
- ``@transform``: the same parameters; it returns (or yields) outputs.
- ``@aggregate``: `f(state, value)` or `f(state, key, value)`; it returns the key's new state, and outputs.

An output is a value, which keeps the tuple's key, or `(key, value)`; several go in a list; None is none.

`deterministic=False` says that the same input may give another output the next time (random numbers, the time, a
server). Else it must be the same, in any process, and however the input is divided into batches.
"""

import atexit as _atexit
import os as _os
import sys as _sys

from . import serve as _serve
from .operators import Aggregate as _Aggregate
from .operators import Filter as _Filter
from .operators import Operator as _Operator
from .operators import Transform as _Transform

__all__ = ["aggregate", "filter", "run", "transform"]
__version__ = "0.1.0"

_made = []
_ran = False


def _decorator(kind, function, options):
    def decorate(function):
        operator = kind(function, **options)
        _made.append(operator)
        return operator

    return decorate if function is None else decorate(function)


def filter(function=None, *, deterministic=True, text=False):  # noqa: A001 (as users would look for it)
    """Passes the tuples for which `function` says true."""
    return _decorator(_Filter, function, {"deterministic": deterministic, "text": text})


def transform(function=None, *, deterministic=True, text=False):
    """Makes of each tuple what `function` returns or yields: any number of outputs."""
    return _decorator(_Transform, function, {"deterministic": deterministic, "text": text})


def aggregate(function=None, *, initial=None, deterministic=True, text=False):
    """Keeps a state for each key; `initial` is a new key's: a value, or a function that makes one (`int`, `set`).

    States are saved with pickle: what has to be remembered must be in them, and nothing else. The operator has a
    decorator of its own, `at_end`, for a function `(key, state)` that gives outputs at the end of the input.
    """
    return _decorator(_Aggregate, function, {"initial": initial, "deterministic": deterministic, "text": text})


def run(operator=None):
    """Runs the operator that the program has (or, of several, this one). To be called at the end of the program."""
    global _ran
    _ran = True
    if operator is None:
        if len(_made) != 1:
            names = ", ".join(o.__name__ for o in _made)
            _sys.exit(
                f"rainstorm.run() must be told which of the operators to run: {names}"
                if _made
                else "rainstorm.run() found no operator: put @rainstorm.filter, transform or aggregate over a function"
            )
        operator = _made[0]
    elif not isinstance(operator, _Operator):
        _sys.exit(f"rainstorm.run({operator!r:.80}): not an operator; put a decorator of rainstorm over the function")
    _serve.run(operator)


@_atexit.register
def _not_forgotten():
    """A program that never calls run() would be taken for one that speaks the text protocol."""
    if _made and not _ran and "RAINSTORM_DESCRIBE" in _os.environ and not hasattr(_sys, "last_type"):
        _serve.say_what_it_is("rainstorm.run() is missing at the end of the program")
