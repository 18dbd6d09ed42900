"""Filters, transforms and aggregates: a function of the user's, given whole batches.

A batch is a list of keys (None if the function does not want them) and a list of values. The answer is what goes
into the message: ``("passed", bytes)`` or ``("outputs", origins, keys, values)``, see ``wire.py``.
"""

import inspect
import operator as _operator
import pickle
import struct

from . import wire

_U32 = struct.Struct("<I")
# The first bytes of a snapshot: the version, and whose it is.
_SNAPSHOT = b"\x01p"


class Failed(Exception):
    """The user's function raised `__cause__` at the tuple `index` of the batch (None: at no tuple)."""

    def __init__(self, index):
        super().__init__(index)
        self.index = index


def _to_bytes(value):
    if type(value) is bytes:
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(
        f"a key or a value must be bytes or str, not {type(value).__name__}: {value!r:.80}"
    )


class Operator:
    """A function that is an operator. It can still be called as the function that it was."""

    kind = ""
    snapshot_kept = True
    # How many parameters the function may have, and what they get.
    shapes = {1: "value", 2: "key, value"}

    def __init__(self, function, *, deterministic=True, text=False):
        if not callable(function):
            raise TypeError(f"an operator is a function, not {function!r}")
        self.function = function
        self.deterministic = deterministic
        self.text = text
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", self.kind)
        self.parameters = self._count_parameters()
        self.keys = self.parameters == max(self.shapes)

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)

    def _count_parameters(self):
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):  # some functions written in C do not say
            return min(self.shapes)
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        needed = [p for p in signature.parameters.values() if p.kind in positional and p.default is p.empty]
        if len(needed) not in self.shapes:
            shapes = " or ".join(f"({shape})" for shape in self.shapes.values())
            raise TypeError(f"{self.__name__}{signature}: the function of a {self.kind} takes {shapes}")
        return len(needed)

    def description(self):
        yes = {True: "yes", False: "no"}
        return (
            f"rainstorm-operator/1 kind={self.kind} protocol=batch snapshot={yes[self.snapshot_kept]} "
            f"deterministic={yes[bool(self.deterministic)]} keys={yes[self.keys]}"
        )

    def unpack(self, column):
        return None if column is None else (wire.unpack_text if self.text else wire.unpack_column)(column)

    def batch(self, keys, values):
        raise NotImplementedError

    def finish(self):
        """Outputs at the end of the input: an iterable of (key, value)."""
        return ()

    def snapshot(self, rewrite):
        """The state of what changed and of `rewrite` bytes of what did not, and whether a round ends with it."""
        return b"", True

    def restore(self, snapshot):
        if snapshot:
            raise ValueError("this operator keeps no state, but was given a snapshot to restore")

    def _map(self, collect, keys, values):
        """`collect` of the function's results, one for each tuple."""
        # What is left of this iterator says at which tuple the function raised.
        rest = iter(values)
        try:
            results = collect(map(self.function, keys, rest) if self.keys else map(self.function, rest))
        except Exception as error:
            raise Failed(len(values) - _operator.length_hint(rest) - 1) from error
        if len(results) != len(values):
            raise Failed(len(results)) from RuntimeError("the function raised StopIteration")
        return results


class Filter(Operator):
    kind = "filter"

    def batch(self, keys, values):
        return "passed", self._map(lambda results: bytes(map(bool, results)), keys, values)


class Transform(Operator):
    kind = "transform"

    def batch(self, keys, values):
        if inspect.isgeneratorfunction(self.function):
            # Each generator runs to its end before the next begins.
            return outputs(self._map(lambda results: [list(r) for r in results], keys, values))
        return outputs(self._map(list, keys, values))


class Aggregate(Operator):
    kind = "aggregate"
    shapes = {2: "state, value", 3: "state, key, value"}

    def __init__(self, function, *, initial=None, **options):
        if isinstance(initial, (list, dict, set, bytearray)):
            name = type(initial).__name__
            raise TypeError(f"initial={initial!r} would be one object for all keys; write initial={name}")
        super().__init__(function, **options)
        self.keys = True
        self.initial = initial if callable(initial) else lambda: initial
        self.end = None
        self.states = {}
        # Keys in the order in which they came: a round of snapshots goes through them.
        self.order = []
        self.cursor = 0
        self.in_round = set()
        self.changed = {}

    def at_end(self, function):
        """Decorator: `function(key, state)` gives the outputs for each key at the end of the input."""
        self.end = function
        return function

    def batch(self, keys, values):
        states, function, results = self.states, self.function, []
        with_key = self.parameters == 3
        index = 0
        try:
            for key, value in zip(keys, values):
                try:
                    state = states[key]
                except KeyError:
                    state = self.initial()
                    self.order.append(key)
                both = function(state, key, value) if with_key else function(state, value)
                if type(both) is not tuple or len(both) != 2:
                    raise TypeError(
                        f"it returned {both!r:.80}; an aggregate returns two things: the new state, and an output or None"
                    )
                states[key], result = both
                results.append(result)
                index += 1
        except Exception as error:
            raise Failed(index) from error
        self.changed.update(dict.fromkeys(keys))
        return outputs(results)

    def finish(self):
        if self.end is None:
            return
        for key in sorted(self.states, key=_to_bytes):
            try:
                for own, value in _pairs(self.end(key, self.states[key])):
                    yield _to_bytes(key if own is None else own), value
            except Exception as error:
                raise Failed(None) from error

    def snapshot(self, rewrite):
        entries = []
        for key in self.changed:
            entries.append(self._entry(key))
        self.in_round.update(self.changed)
        self.changed.clear()
        size = 0
        while self.cursor < len(self.order):
            key = self.order[self.cursor]
            if key not in self.in_round:
                if size >= rewrite:
                    break
                self.in_round.add(key)
                entries.append(self._entry(key))
                size += len(entries[-1])
            self.cursor += 1
        ended = self.cursor == len(self.order)
        if ended:
            self._new_round()
        if not entries:
            return b"", ended
        return b"".join([_SNAPSHOT, _U32.pack(len(entries)), *entries]), ended

    def _new_round(self):
        self.cursor = 0
        self.in_round = set()

    def _entry(self, key):
        raw = _to_bytes(key)
        state = pickle.dumps(self.states[key], protocol=4)
        return b"".join([_U32.pack(len(raw)), raw, _U32.pack(len(state)), state])

    def restore(self, snapshot):
        """Snapshots end to end; a later one wins, key by key."""
        at = 0

        def take(n):
            nonlocal at
            piece = snapshot[at : at + n]
            at += n
            if len(piece) < n:
                raise ValueError("the snapshot is cut short or damaged")
            return piece

        def sized():
            return take(_U32.unpack(take(4))[0])

        while at < len(snapshot):
            if take(2) != _SNAPSHOT:
                raise ValueError("the snapshot was made by another operator, or by another version of this one")
            for _ in range(_U32.unpack(take(4))[0]):
                key = sized()
                key = str(key, "utf-8", "surrogateescape") if self.text else key
                state = pickle.loads(sized())
                if key not in self.states:
                    self.order.append(key)
                self.states[key] = state
        self._new_round()


# --- what a function returns ---------------------------------------------------------------------------------------


def _pairs(result):
    """The (key or None, value) of what a function returned for one tuple, values as bytes."""
    if result is None:
        return
    if isinstance(result, (bytes, str, bytearray, memoryview)):
        yield None, _to_bytes(result)
    elif isinstance(result, tuple):
        if len(result) != 2:
            raise TypeError(f"an output is a value or (key, value), not a tuple of {len(result)}; many outputs go in a list")
        key, value = result
        yield None if key is None else _to_bytes(key), _to_bytes(value)
    elif hasattr(result, "__iter__") and not isinstance(result, dict):
        for one in result:
            if one is None or isinstance(one, (bytes, str, bytearray, memoryview, tuple)):
                yield from _pairs(one)
            else:
                raise TypeError(f"among its outputs is {type(one).__name__}; each is bytes, str or (key, value)")
    else:
        raise TypeError(
            f"it returned {type(result).__name__}; it may return bytes or str, (key, value), a list of these, or None"
        )


def outputs(results):
    """The answer for the results of a whole batch. The usual shapes are told apart by their types alone."""
    types = set(map(type, results))
    if types == {bytes}:
        return "outputs", None, None, results
    if types == {str}:
        return "outputs", None, None, [r.encode("utf-8", "surrogateescape") for r in results]
    if types <= {bytes, type(None)}:
        origins = [i for i, result in enumerate(results) if result is not None]
        return "outputs", origins, None, [results[i] for i in origins]
    if types == {tuple} and set(map(len, results)) == {2}:
        keys, values = zip(*results)
        if set(map(type, keys)) == set(map(type, values)) == {bytes}:
            return "outputs", None, keys, values
    origins, keys, values = [], [], []
    for index, result in enumerate(results):
        try:
            for key, value in _pairs(result):
                values.append(value)
                if key is None:
                    origins.append(index)
                else:
                    origins.append(wire.OWN_KEY)
                    keys.append(key)
        except Exception as error:
            raise Failed(index) from error
    return "outputs", origins, keys or None, values
