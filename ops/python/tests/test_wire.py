import io
import random
import unittest

from rainstorm import wire


class Wire(unittest.TestCase):
    def test_messages_round_trip(self):
        for n in (0, 1, 31, 32, 127, 128, 255, 256, 65535, 65536, 1 << 20):
            for value in (n, b"x" * n, "y" * n, [None] * min(n, 300)):
                frame = wire.frame(7, value, True)
                self.assertEqual(wire.read_frame(io.BytesIO(frame)), [7, value, True])
        self.assertEqual(wire.unpack(wire.frame((1 << 64) - 1, False, None)[4:]), [(1 << 64) - 1, False, None])
        # As another implementation may write them.
        self.assertEqual(wire.unpack(b"\xdd\0\0\0\2\xcd\0\5\xc6\0\0\0\1a"), [5, b"a"])
        self.assertEqual(wire.unpack(b"\xdc\0\1\xdb\0\0\0\2\xc3\xa9"), ["\xe9"])

    def test_columns_round_trip(self):
        rng = random.Random(1)
        for _ in range(200):
            values = [rng.randbytes(rng.randrange(5)) for _ in range(rng.randrange(9))]
            column = wire.unpack(wire.frame(wire.pack_column(values))[4:])[0]
            self.assertEqual(wire.unpack_column(column), values)
            text = wire.unpack_text(column)
            self.assertEqual([t.encode("utf-8", "surrogateescape") for t in text], values)

    def test_what_does_not_fit_is_refused(self):
        three = wire.pack_u32s
        for column in (
            (three([3, 1]), b"abc"),
            (three([2, 1, 3]), b"abc"),
            (three([1, 2]), b"abc"),
            (three([4]), b"abc"),
            (b"", b"abc"),
            (b"\3\0\0", b"abc"),
        ):
            with self.assertRaises(wire.Malformed):
                wire.unpack_column(column)
        for message in (b"", b"\x92\1", b"\x91\xc6\xff\xff\xff\xff", b"\xc1", b"\x90\0", b"\xdd\xff\xff\xff\xff", b"\x91" * 9):
            with self.assertRaises(wire.Malformed):
                wire.unpack(message)
        for stream in (b"\0\0", b"\0\0\0\5\x91", b"hello world"):
            with self.assertRaises(wire.Malformed):
                wire.read_frame(io.BytesIO(stream))
        self.assertIsNone(wire.read_frame(io.BytesIO(b"")))
        with self.assertRaises(ValueError):
            wire.frame(b"x" * wire.LONGEST_FRAME)

    def test_garbage_is_refused_and_nothing_else(self):
        rng = random.Random(2)
        for _ in range(3000):
            message = bytes([rng.choice((0x91, 0x92, 0x93, rng.randrange(256)))]) + rng.randbytes(rng.randrange(30))
            try:
                wire.unpack(message)
            except wire.Malformed:
                pass


if __name__ == "__main__":
    unittest.main()
