"""A program's main: says what it is, answers batches, or works by hand on lines."""

import os
import re
import sys
import traceback

from . import wire
from .operators import Failed

# Values and keys in one answer's frame, in bytes, and how much of a snapshot.
_FRAME_BYTES = 8 << 20
_PACKAGE = os.path.dirname(__file__)


class Streams:
    """Standard input and output for the protocol alone: what the program prints goes to standard error.

    Taken over when the package is imported, so that nothing is printed before.
    """

    def __init__(self):
        self.source = open(os.dup(0), "rb", buffering=1 << 18)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        self.sink = os.dup(1)
        os.dup2(2, 1)

    def write(self, data):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.sink, rest) :]


_streams = None
if "RAINSTORM_DESCRIBE" in os.environ or os.environ.get("RAINSTORM_PROTOCOL") == "batch":
    _streams = Streams()


def say_what_it_is(line):
    """Answers the question that RAINSTORM_DESCRIBE is."""
    if _streams is not None:
        _streams.write(f"{line}\n".encode())


def run(operator):
    """Runs the operator until the end of its input, and ends the program if something goes wrong."""
    if "RAINSTORM_DESCRIBE" in os.environ:
        say_what_it_is(operator.description())
    elif _streams is not None:
        code = serve(operator, _streams.source, _streams.write)
        if code:
            sys.exit(code)
    elif "RAINSTORM_PROTOCOL" in os.environ:
        sys.exit("this operator speaks the batch protocol; it was started for another")
    else:
        by_hand(operator)


def serve(operator, source, write):
    """Answers what comes from `source` (a binary file) with `write` (a function). The exit code."""
    restoring = []
    while True:
        try:
            request = wire.read_frame(source)
        except wire.Malformed as error:
            print(f"standard input does not keep to the batch protocol: {error}", file=sys.stderr)
            return 1
        if request is None:
            return 0
        try:
            for answer in _answers(operator, request, restoring):
                write(answer)
        except BrokenPipeError:
            return 1
        except Failed as failed:
            write(report(failed.__cause__, failed.index))
            return 1
        except wire.Malformed as error:
            print(f"standard input does not keep to the batch protocol: {error}", file=sys.stderr)
            return 1
        except Exception as error:
            write(report(error, None))
            return 1


def _answers(operator, request, restoring):
    if request[:1] == [wire.BATCH] and len(request) == 3:
        keys, values = map(operator.unpack, request[1:])
        if values is None or (operator.keys and (keys is None or len(keys) != len(values))):
            raise wire.Malformed("a batch has not as many keys as values")
        answer = operator.batch(keys, values)
        if answer[0] == "passed":
            yield wire.frame(wire.PASSED, answer[1])
        else:
            yield from _outputs(*answer[1:])
    elif request == [wire.FINISH]:
        keys, values, size = [], [], 0
        for key, value in operator.finish():
            keys.append(key)
            values.append(value)
            size += len(key) + len(value)
            if size > _FRAME_BYTES:
                yield _output_frame(True, None, keys, values)
                keys, values, size = [], [], 0
        yield _output_frame(False, None, keys, values)
    elif request[:1] == [wire.SNAPSHOT] and len(request) == 2:
        snapshot, round_ended = operator.snapshot(request[1])
        at = 0
        while len(snapshot) - at > _FRAME_BYTES:
            yield wire.frame(wire.SNAPSHOT_TAKEN, True, False, snapshot[at : at + _FRAME_BYTES])
            at += _FRAME_BYTES
        yield wire.frame(wire.SNAPSHOT_TAKEN, False, round_ended, snapshot[at:])
    elif request[:1] == [wire.RESTORE] and len(request) == 3:
        restoring.append(request[2])
        if not request[1]:
            snapshot = b"".join(restoring)
            restoring.clear()
            operator.restore(snapshot)
        yield wire.frame(wire.RESTORED)
    else:
        raise wire.Malformed(f"no request is {request!r:.80}")


def _outputs(origins, keys, values):
    """Frames of a bounded size."""
    count = len(values)
    size = sum(map(len, values)) + (sum(map(len, keys)) if keys else 0)
    if size <= _FRAME_BYTES or count < 2:
        yield _output_frame(False, origins, keys, values)
        return
    per_frame = max(1, count * _FRAME_BYTES // size)
    used = 0
    for at in range(0, count, per_frame):
        more = at + per_frame < count
        own = origins and origins[at : at + per_frame]
        if keys is None:
            piece = None
        else:
            # Without origins each output has a key of its own.
            n = len(values[at : at + per_frame]) if origins is None else own.count(wire.OWN_KEY)
            piece = keys[used : used + n]
            used += n
        yield _output_frame(more, own, piece, values[at : at + per_frame])


def _output_frame(more, origins, keys, values):
    return wire.frame(
        wire.OUTPUTS,
        more,
        None if origins is None else wire.pack_u32s(origins),
        None if not keys else wire.pack_column(keys),
        wire.pack_column(values),
    )


def report(error, index):
    """Prints the traceback from the user's code on; the message that says so."""
    trace = error.__traceback__
    while trace is not None and os.path.dirname(trace.tb_frame.f_code.co_filename) == _PACKAGE:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)
    sys.stderr.flush()
    return wire.frame(wire.ERROR, index, f"{type(error).__name__}: {error}"[:2000])


# --- by hand --------------------------------------------------------------------------------------------------------


def by_hand(operator):
    """The lines of standard input are the tuples <stdin:1, line>, ...; prints key<TAB>value."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    number, partial = 0, b""
    try:
        while True:
            chunk = source.read1(1 << 16)
            lines = (partial + chunk).split(b"\n")
            partial = lines.pop()
            if not chunk and partial:
                lines.append(partial)
            lines = [line[:-1] if line.endswith(b"\r") else line for line in lines]
            keys = [b"stdin:%d" % n for n in range(number + 1, number + 1 + len(lines))]
            number += len(lines)
            if lines:
                _print(operator, keys, lines, sink)
            if not chunk:
                _write(sink, operator.finish())
                return
    except BrokenPipeError:
        # Nobody reads on, as behind `| head`: nor is there anything to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except Failed as failed:
        report(failed.__cause__, None)
        where = "" if failed.index is None else f" at line {number - len(lines) + failed.index + 1}"
        sys.exit(f"the operator failed{where}")


def _print(operator, keys, values, sink):
    given = wire.pack_column(keys), wire.pack_column(values)
    own_keys, own_values = map(operator.unpack, given)
    answer = operator.batch(own_keys if operator.keys else None, own_values)
    if answer[0] == "passed":
        pairs = [pair for pair, passes in zip(zip(keys, values), answer[1]) if passes]
    else:
        _, origins, out_keys, out_values = answer
        if origins is None:
            pairs = zip(out_keys or keys, out_values)
        else:
            own = iter(out_keys or ())
            pairs = [(next(own) if o == wire.OWN_KEY else keys[o], v) for o, v in zip(origins, out_values)]
    _write(sink, pairs)


# What a terminal obeys: control characters but for tabs and line ends, and those that turn the direction of writing around.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def _write(sink, pairs):
    lines = (b"%s\t%s\n" % pair for pair in pairs)
    sink.writelines(map(_shown, lines) if sink.isatty() else lines)
    sink.flush()


def _shown(line):
    text = line.decode("utf-8", "backslashreplace")
    return _HIDDEN.sub(lambda found: repr(found[0])[1:-1], text).encode()
