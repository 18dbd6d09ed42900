import contextlib
import io
import random
import unittest

import rainstorm
from rainstorm import serve, wire
from rainstorm.operators import Aggregate, Failed


def talk(operator, *requests):
    """What the operator answers, and its exit code."""
    source = io.BytesIO(b"".join(wire.frame(*r) for r in requests))
    sink = io.BytesIO()
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        code = serve.serve(operator, source, sink.write)
    sink.seek(0)
    return list(iter(lambda: wire.read_frame(sink), None)), code, stderr.getvalue()


def batch(*tuples, keys=True):
    own = wire.pack_column([k for k, _ in tuples]) if keys else None
    return wire.BATCH, own, wire.pack_column([v for _, v in tuples])


def ask(operator, *tuples):
    """The output tuples of a batch."""
    answers, code, stderr = talk(operator, batch(*tuples, keys=operator.keys))
    assert code == 0, stderr
    return read(answers, tuples)


def read(answers, tuples):
    pairs = []
    for answer in answers:
        if answer[0] == wire.PASSED:
            return [t for t, passes in zip(tuples, answer[1]) if passes]
        kind, more, origins, keys, values = answer
        assert kind == wire.OUTPUTS and more == (answer is not answers[-1])
        keys = iter(wire.unpack_column(keys) if keys else ())
        values = wire.unpack_column(values)
        if origins is not None:
            for origin, value in zip(wire.unpack_u32s(origins), values):
                pairs.append((next(keys) if origin == wire.OWN_KEY else tuples[origin][0], value))
        elif answer[3]:
            pairs += zip(keys, values)
        else:
            pairs += [(tuples[len(pairs) + i][0], value) for i, value in enumerate(values)]
    return pairs


class Stateless(unittest.TestCase):
    def test_filter(self):
        values_only = rainstorm.filter(lambda value: value.startswith(b"a"))
        self.assertFalse(values_only.keys)
        self.assertEqual(ask(values_only, (b"1", b"ab"), (b"2", b"b"), (b"3", b"a")), [(b"1", b"ab"), (b"3", b"a")])
        both = rainstorm.filter(lambda key, value: key + value, text=True)
        self.assertTrue(both.keys)
        self.assertEqual(ask(both, (b"", b""), (b"k", b"")), [(b"k", b"")])
        self.assertEqual(values_only(b"ab"), True, "it is still the function")

    def test_every_shape_of_output(self):
        shapes = {
            b"value": b"v",
            b"text": "t\xe9",
            b"none": None,
            b"pair": (b"k", "v"),
            b"kept": (None, b"v"),
            b"list": [b"a", ("k", b"b"), None],
            b"empty": [],
            b"generator": (c for c in ("x", "y")),
            b"buffer": bytearray(b"b"),
        }
        operator = rainstorm.transform(lambda value: shapes[value])
        tuples = [(b"k%d" % i, name) for i, name in enumerate(shapes)]
        want = [
            (b"k0", b"v"), (b"k1", "t\xe9".encode()), (b"k", b"v"), (b"k4", b"v"), (b"k5", b"a"), (b"k", b"b"),
            (b"k7", b"x"), (b"k7", b"y"), (b"k8", b"b"),
        ]  # fmt: skip
        self.assertEqual(ask(operator, *tuples), want)

    def test_shapes_that_have_short_cuts(self):
        tuples = [(b"k%d" % i, b"%d" % i) for i in range(10)]
        for function, want in (
            (lambda v: v, tuples),
            (lambda v: v.decode(), tuples),
            (lambda v: v if int(v) % 3 else None, [t for t in tuples if int(t[1]) % 3]),
            (lambda v: (v, b"x"), [(v, b"x") for _, v in tuples]),
            (lambda v: ("s", b"x"), [(b"s", b"x")] * 10),
        ):
            self.assertEqual(ask(rainstorm.transform(function), *tuples), want)

        def twice(key, value):
            yield key, value
            yield value

        want = [pair for k, v in tuples for pair in ((k, v), (k, v))]
        self.assertEqual(ask(rainstorm.transform(twice), *tuples), want)

    def test_text_goes_through_unharmed(self):
        tuples = [(b"k", bytes([i]) + b"\xc3\xa9") for i in range(256)]
        self.assertEqual(ask(rainstorm.transform(lambda value: value, text=True), *tuples), tuples)

    def test_large_outputs_go_in_several_frames(self):
        size = 3_000_000
        many = rainstorm.transform(
            lambda value: [out for i in range(3) for out in (b"x" * size, (b"own%d" % i, b"y" * size), b"z")]
        )
        answers, _, _ = talk(many, batch((b"k", b""), keys=False))
        self.assertGreater(len(answers), 1)
        pairs = [(key, value[:1], len(value)) for key, value in read(answers, [(b"k", b"")])]
        want = [[(b"k", b"x", size), (b"own%d" % i, b"y", size), (b"k", b"z", 1)] for i in range(3)]
        self.assertEqual(pairs, sum(want, []))
        one = rainstorm.transform(lambda value: value * 3_000_000)
        tuples = [(b"%d" % i, b"a") for i in range(7)]
        self.assertEqual([k for k, _ in read(talk(one, batch(*tuples, keys=False))[0], tuples)], [k for k, _ in tuples])

    def test_errors_name_the_tuple(self):
        def wrong(value):
            return {b"raise": lambda: int("x"), b"int": lambda: 7, b"three": lambda: (1, 2, 3), b"nested": lambda: [[b"x"]]}.get(
                value, lambda: value
            )()

        for value, says in ((b"raise", "ValueError"), (b"int", "int"), (b"three", "tuple of 3"), (b"nested", "list")):
            answers, code, stderr = talk(rainstorm.transform(wrong), batch((b"", b"a"), (b"", b"b"), (b"", value), (b"", b"c"), keys=False))
            kind, index, what = answers[-1]
            self.assertEqual((kind, index, code), (wire.ERROR, 2, 1))
            self.assertIn(says, what)
            if value == b"raise":
                self.assertIn("in wrong", stderr)
                self.assertNotIn("serve.py", stderr)

        def stops(value):
            return next(iter(())) if value == b"b" else value

        for kind in (rainstorm.transform, rainstorm.filter):
            answers, code, _ = talk(kind(stops), batch((b"", b"a"), (b"", b"b"), (b"", b"c"), keys=False))
            self.assertEqual((answers[-1][:2], code), ([wire.ERROR, 1], 1))

        def later(value):
            yield value
            raise KeyError(value)

        answers, _, _ = talk(rainstorm.transform(later), batch((b"", b"a"), keys=False))
        self.assertEqual(answers[-1][:2], [wire.ERROR, 0])

    def test_what_cannot_be_an_operator(self):
        for make in (
            lambda: rainstorm.filter(lambda: True),
            lambda: rainstorm.filter(lambda a, b, c: True),
            lambda: rainstorm.aggregate(lambda a: True),
            lambda: rainstorm.aggregate(lambda s, v: (s, v), initial=[]),
            lambda: rainstorm.filter(3),
        ):
            with self.assertRaises(TypeError):
                make()

    def test_descriptions(self):
        self.assertEqual(
            rainstorm.filter(lambda value: 1, deterministic=False).description(),
            "rainstorm-operator/1 kind=filter protocol=batch snapshot=yes deterministic=no keys=no",
        )
        self.assertEqual(
            rainstorm.aggregate(lambda s, v: (s, v)).description(),
            "rainstorm-operator/1 kind=aggregate protocol=batch snapshot=yes deterministic=yes keys=yes",
        )


class Protocol(unittest.TestCase):
    def test_garbage_ends_the_program(self):
        operator = rainstorm.filter(lambda value: True)
        for request in ((9,), (wire.BATCH, None), (wire.BATCH, None, None), (wire.BATCH, None, (b"abc", b"")), (wire.SNAPSHOT,)):
            answers, code, stderr = talk(operator, request)
            self.assertEqual((answers, code), ([], 1), request)
            self.assertIn("protocol", stderr)
        with_keys = rainstorm.filter(lambda key, value: True)
        self.assertEqual(talk(with_keys, batch((b"a", b"b"), keys=False))[1], 1)

    def test_several_requests_are_answered_in_order(self):
        answers, code, _ = talk(
            rainstorm.filter(lambda value: value), batch((b"", b"x")), batch((b"", b"")), (wire.FINISH,), (wire.SNAPSHOT, 5)
        )
        self.assertEqual(answers[0:2], [[wire.PASSED, b"\1"], [wire.PASSED, b"\0"]])
        self.assertEqual(answers[2], [wire.OUTPUTS, False, None, None, [b"", b""]])
        self.assertEqual((answers[3], code), ([wire.SNAPSHOT_TAKEN, False, True, b""], 0))


def count():
    @rainstorm.aggregate(initial=int)
    def counts(state, value):
        return state + 1, b"%d" % (state + 1)

    @counts.at_end
    def total(key, state):
        return [b"%d" % state, (b"total " + key, "x")]

    return counts


class Aggregates(unittest.TestCase):
    def test_states_are_kept_by_key(self):
        operator = count()
        self.assertEqual(ask(operator, (b"a", b""), (b"b", b""), (b"a", b"")), [(b"a", b"1"), (b"b", b"1"), (b"a", b"2")])
        answers, _, _ = talk(operator, batch((b"B", b"")), (wire.FINISH,))
        want = [(b"B", b"1"), (b"total B", b"x"), (b"a", b"2"), (b"total a", b"x"), (b"b", b"1"), (b"total b", b"x")]
        self.assertEqual(read(answers[1:], []), want)

    def test_mutable_states_and_keys_as_text(self):
        @rainstorm.aggregate(initial=set, text=True)
        def distinct(seen, key, value):
            seen.add(value)
            return seen, f"{key}{len(seen)}"

        tuples = [(b"k\xff", b"a"), (b"k\xff", b"a"), (b"k\xff", b"b"), (b"l", b"a")]
        self.assertEqual([v for _, v in ask(distinct, *tuples)], [b"k\xff1", b"k\xff1", b"k\xff2", b"l1"])
        again = Aggregate(distinct.function, initial=set, text=True)
        again.restore(distinct.snapshot(0)[0])
        self.assertEqual(ask(again, (b"k\xff", b"b"), (b"k\xff", b"c")), [(b"k\xff", b"k\xff2"), (b"k\xff", b"k\xff3")])

    def test_a_result_that_is_no_pair_is_explained(self):
        for result in (3, "ab", (1, 2, 3)):
            operator = rainstorm.aggregate(lambda state, value, result=result: result)
            answers, _, _ = talk(operator, batch((b"k", b"")))
            self.assertEqual(answers[-1][:2], [wire.ERROR, 0])
            self.assertIn("two things", answers[-1][2])

    def test_rounds_of_snapshots_against_a_naive_model(self):
        rng = random.Random(3)
        for _ in range(200):
            kept = count()
            live, before, written, order = [], 0, set(), []
            for _ in range(rng.randrange(1, 25)):
                keys = [b"key%d" % rng.randrange(20) for _ in range(rng.randrange(6))]
                ask(kept, *[(key, b"") for key in keys])
                order += [key for key in dict.fromkeys(keys) if key not in order]
                rewrite = rng.choice((0, 0, 1, 40, 200))
                want = list(dict.fromkeys(keys))
                written.update(want)
                size = 0
                for key in order:
                    if size < rewrite and key not in written:
                        written.add(key)
                        want.append(key)
                        size += len(kept._entry(key))
                delta, ended = kept.snapshot(rewrite)
                probe = count()
                probe.restore(delta)
                self.assertEqual(sorted(probe.states), sorted(want))
                self.assertEqual(ended, written == set(order))
                live.append(delta)
                if ended:
                    written.clear()
                    live = live[before:]
                    before = len(live)
            again = count()
            again.restore(b"".join(live))
            self.assertEqual(again.states, kept.states)
            self.assertEqual(again.snapshot(0)[0], b"", "what was restored has not changed since")

    def test_restoring_in_pieces_and_a_large_snapshot(self):
        @rainstorm.aggregate
        def last(state, value):
            return value, None

        tuples = [(b"%d" % i, b"x" * 4_000_000) for i in range(5)]
        answers, _, _ = talk(last, batch(*tuples), (wire.SNAPSHOT, 0))
        taken = answers[1:]
        self.assertGreater(len(taken), 1)
        self.assertEqual([a[1] for a in taken], [True] * (len(taken) - 1) + [False])
        snapshot = b"".join(a[3] for a in taken)
        again = Aggregate(last.function)
        pieces = [snapshot[i : i + 1_000_003] for i in range(0, len(snapshot), 1_000_003)]
        requests = [(wire.RESTORE, piece is not pieces[-1], piece) for piece in pieces]
        answers, code, _ = talk(again, *requests)
        self.assertEqual((answers, code), ([[wire.RESTORED]] * len(pieces), 0))
        self.assertEqual(again.states, last.states)

    def test_damaged_snapshots_are_refused(self):
        operator = count()
        ask(operator, (b"a", b""), (b"bb", b""))
        whole, _ = operator.snapshot(0)
        for cut in range(1, len(whole)):
            answers, code, _ = talk(count(), (wire.RESTORE, False, whole[:cut]))
            self.assertEqual((answers[-1][0], code), (wire.ERROR, 1), cut)
        for bad in (b"\x02p" + whole[2:], b"\x01c" + whole[2:]):
            with self.assertRaises(ValueError):
                count().restore(bad)
        with self.assertRaises(ValueError):
            rainstorm.filter(lambda value: True).restore(b"x")

    def test_a_failed_update_says_where(self):
        operator = rainstorm.aggregate(lambda state, value: (state, b"%d" % (10 // len(value))))
        with self.assertRaises(Failed) as caught:
            operator.batch([b"a", b"a", b"a"], [b"x", b"xx", b""])
        self.assertEqual(caught.exception.index, 2)


if __name__ == "__main__":
    unittest.main()
