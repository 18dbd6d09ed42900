"""Messages of the batch protocol: frames, the MessagePack that they need, columns.

``docs/operators.md`` has the format. Lengths are checked before anything is read for them.
"""

import struct
import sys
from array import array
from itertools import accumulate

LONGEST_FRAME = 64 << 20
OWN_KEY = 0xFFFFFFFF

# Requests and answers by their type.
BATCH, FINISH, SNAPSHOT, RESTORE = range(4)
OUTPUTS, PASSED, SNAPSHOT_TAKEN, RESTORED, ERROR = range(5)

_HEADER = struct.Struct(">I")
_SWAP = sys.byteorder == "big"
if array("I").itemsize != 4:
    raise ImportError("this Python's unsigned int has not 4 bytes")


class Malformed(Exception):
    """Bytes that are not what the protocol says."""


# --- numbers of 4 bytes, little-endian ----------------------------------------------------------------------------


def pack_u32s(numbers):
    packed = array("I", numbers)
    if _SWAP:
        packed.byteswap()
    return packed.tobytes()


def unpack_u32s(packed):
    if len(packed) % 4:
        raise Malformed("a column's ends are not 4 bytes each")
    numbers = array("I")
    numbers.frombytes(packed)
    if _SWAP:
        numbers.byteswap()
    return numbers


# --- columns ------------------------------------------------------------------------------------------------------


def pack_column(values):
    """``[ends, data]`` of a list of bytes; a TypeError if something else is in it."""
    data = b"".join(values)
    return (pack_u32s(accumulate(map(len, values))), data)


def unpack_column(column):
    """A list of bytes."""
    starts, ends, data = _bounds(column)
    return [data[a:b] for a, b in zip(starts, ends)]


def unpack_text(column):
    """A list of str; bytes that are not UTF-8 become lone surrogates, which are written as the bytes they were."""
    starts, ends, data = _bounds(column)
    if data.isascii():
        text = data.decode("ascii")
        return [text[a:b] for a, b in zip(starts, ends)]
    return [str(data[a:b], "utf-8", "surrogateescape") for a, b in zip(starts, ends)]


def _bounds(column):
    packed, data = column
    ends = unpack_u32s(packed)
    starts = array("I", [0])
    starts.extend(ends[:-1])
    if (ends[-1] if ends else 0) != len(data) or ends.tolist() != sorted(ends):
        raise Malformed("a column's ends do not fit its data")
    return starts, ends, data


# --- MessagePack --------------------------------------------------------------------------------------------------


def _head(short, limits, n):
    """The bytes before something of length n: `short` those of the one-byte form, `limits` the others."""
    if short is not None and n <= short[1]:
        return bytes([short[0] | n])
    for limit, form, marker in limits:
        if n <= limit:
            return struct.pack(form, marker, n)
    raise ValueError(f"{n} is too large for a message")


_BIN = ((0xFF, ">BB", 0xC4), (0xFFFF, ">BH", 0xC5), (0xFFFFFFFF, ">BI", 0xC6))
_STR = ((0xFF, ">BB", 0xD9), (0xFFFF, ">BH", 0xDA), (0xFFFFFFFF, ">BI", 0xDB))
_UINT = ((0xFF, ">BB", 0xCC), (0xFFFF, ">BH", 0xCD), (0xFFFFFFFF, ">BI", 0xCE), ((1 << 64) - 1, ">BQ", 0xCF))
_ARRAY = ((0xFFFF, ">BH", 0xDC),)


def _pack(value, parts):
    if value is None:
        parts.append(b"\xc0")
    elif value is True:
        parts.append(b"\xc3")
    elif value is False:
        parts.append(b"\xc2")
    elif isinstance(value, int):
        parts.append(_head((0, 0x7F), _UINT, value))
    elif isinstance(value, str):
        raw = value.encode("utf-8", "replace")
        parts += (_head((0xA0, 31), _STR, len(raw)), raw)
    elif isinstance(value, (bytes, bytearray)):
        parts += (_head(None, _BIN, len(value)), value)
    else:
        parts.append(_head((0x90, 15), _ARRAY, len(value)))
        for element in value:
            _pack(element, parts)


def frame(*message):
    """A frame with the message: None, bool, unsigned int, str, bytes, and tuples or lists of these."""
    parts = [b""]
    _pack(message, parts)
    length = sum(map(len, parts))
    if length > LONGEST_FRAME:
        raise ValueError(f"a tuple or a state is too large: {length} bytes, at most {LONGEST_FRAME} fit a message")
    parts[0] = _HEADER.pack(length)
    return b"".join(parts)


# marker: how the length is packed, and what it is the length of
_SIZED = {
    0xC4: (">B", "bin"),
    0xC5: (">H", "bin"),
    0xC6: (">I", "bin"),
    0xD9: (">B", "str"),
    0xDA: (">H", "str"),
    0xDB: (">I", "str"),
    0xDC: (">H", "array"),
    0xDD: (">I", "array"),
    0xCC: (">B", "int"),
    0xCD: (">H", "int"),
    0xCE: (">I", "int"),
    0xCF: (">Q", "int"),
}


def _unpack(message, at, depth=0):
    marker = message[at]
    at += 1
    if marker < 0x80:
        return marker, at
    if marker in _SIZED:
        form, kind = _SIZED[marker]
        (n,) = struct.unpack_from(form, message, at)
        at += struct.calcsize(form)
    elif 0x90 <= marker <= 0x9F:
        n, kind = marker & 0x0F, "array"
    elif 0xA0 <= marker <= 0xBF:
        n, kind = marker & 0x1F, "str"
    elif marker in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[marker], at
    else:
        raise Malformed(f"nothing in a message begins with the byte {marker:#x}")
    if kind == "int":
        return n, at
    if kind == "array":
        if depth > 3 or n > len(message) - at:
            raise Malformed("an array goes beyond the message")
        elements = []
        for _ in range(n):
            element, at = _unpack(message, at, depth + 1)
            elements.append(element)
        return elements, at
    if n > len(message) - at:
        raise Malformed("a byte string goes beyond the message")
    raw = message[at : at + n]
    return (raw if kind == "bin" else raw.decode("utf-8", "replace")), at + n


def unpack(message):
    """What is in a frame."""
    try:
        value, end = _unpack(message, 0)
    except (IndexError, struct.error):
        raise Malformed("a message is cut short") from None
    if end != len(message):
        raise Malformed("something follows the message in its frame")
    return value


def read_frame(stream):
    """The next frame's message; None at the end of the stream."""
    header = stream.read(4)
    if not header:
        return None
    if len(header) == 4:
        (length,) = _HEADER.unpack(header)
        if length > LONGEST_FRAME:
            raise Malformed(f"a frame of {length} bytes; at most {LONGEST_FRAME} are allowed")
        message = stream.read(length)
        if len(message) == length:
            return unpack(message)
    raise Malformed("the input ends in the middle of a frame")
