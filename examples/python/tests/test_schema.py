"""The canonical form of schemas: its examples, its bounds, and bytes that are none."""

import random
import unittest

import page
from chance import chance

from orchestrator import schema
from orchestrator.errors import SchemaError
from orchestrator.schema import Schema


def arbitrary(chance: random.Random, depth: int) -> schema.Node:
    kinds = ["scalar"] if depth == 0 else "scalar option seq tuple map struct enum".split()
    kind = chance.choice(kinds)
    if kind == "scalar":
        return schema.Scalar(chance.randrange(17))

    def inner() -> schema.Node:
        return arbitrary(chance, depth - 1)

    if kind == "option":
        return schema.Option(inner())
    if kind == "seq":
        return schema.Seq(inner())
    if kind == "map":
        return schema.Map(inner(), inner())
    some = range(chance.randrange(4))
    if kind == "tuple":
        return schema.TupleOf((inner(), *(inner() for _ in some)))
    if kind == "struct":
        return schema.Struct(tuple((f"f{i}ä", inner()) for i in some))
    return schema.Enum(tuple(variant(chance, f"V{i}", depth) for i in some))


def variant(chance: random.Random, name: str, depth: int) -> schema.Variant:
    kind = chance.randrange(4)
    if kind == 0:
        return schema.Variant(name, None)
    if kind == 1:
        return schema.Variant(name, arbitrary(chance, depth - 1), is_newtype=True)
    inner = [arbitrary(chance, depth - 1) for _ in range(chance.choice([0, 2, 3]))]
    if kind == 2:
        return schema.Variant(name, schema.Several(tuple(inner)))
    return schema.Variant(name, schema.Struct(tuple((f"f{i}", n) for i, n in enumerate(inner))))


class Canonical(unittest.TestCase):
    def test_the_vectors_of_the_page(self) -> None:
        for _, canonical, expected in page.rows("| schema | canonical form | BLAKE3 |"):
            known = Schema.from_canonical(bytes.fromhex(canonical))
            self.assertEqual(known.canonical.hex(), canonical)
            self.assertEqual(known.hash.hex(), expected)

    def test_any_schema_is_read_back(self) -> None:
        dice = chance("schemas")
        for _ in range(500):
            made = Schema(arbitrary(dice, 4))
            self.assertEqual(Schema.from_canonical(made.canonical), made)
            self.assertTrue(str(made))

    def test_other_bytes_are_refused(self) -> None:
        dice = chance("bytes that are no schemas")
        for _ in range(3000):
            data = bytearray(Schema(arbitrary(dice, 3)).canonical)
            for _ in range(dice.randrange(1, 4)):
                data[dice.randrange(len(data))] = dice.choice([0, 1, 17, 22, 127, 128, 255])
            del data[dice.randrange(len(data) + 1) + 5 :]
            try:
                known = Schema.from_canonical(bytes(data))
            except SchemaError:
                continue
            self.assertEqual(known.canonical, bytes(data))

    def test_bounds(self) -> None:
        def deep(levels: int) -> bytes:
            return bytes([17] * (levels - 1) + [0])

        Schema.from_canonical(deep(32))
        refused = {
            "more than 32 levels": deep(33),
            "more than 4096 nodes": bytes([19, 0x80, 0x20]) + bytes(4096),
            "65537 bytes": bytes(65537),
            "ends in the middle": b"",
            "shortest form": bytes.fromhex("1580000161"),
            "1 to 255 bytes": bytes.fromhex("150100"),
            "twice": bytes.fromhex("15020161030161") + b"\x03",
            "no elements": bytes.fromhex("1300"),
            "follow the end": bytes.fromhex("0303"),
            "kind 23": bytes([23]),
            "variant of kind 4": bytes.fromhex("1601016104"),
            "one element": bytes.fromhex("160101610201") + b"\x03",
        }
        Schema.from_canonical(bytes([19, 0xFF, 0x1F]) + bytes(4095))
        for problem, canonical in refused.items():
            with self.subTest(problem), self.assertRaisesRegex(SchemaError, problem):
                Schema.from_canonical(canonical)

    def test_counts_that_lie_cost_nothing(self) -> None:
        for tag in (19, 21, 22):
            with self.assertRaises(SchemaError):
                Schema.from_canonical(bytes([tag, 0xFF, 0xFF, 0x7F]))

    def test_for_people(self) -> None:
        known = Schema.from_canonical(
            bytes.fromhex("1604034f666600024f6e010b044d6f76650202070903536179030104746578740e")
        )
        expected = """enum {
    Off,
    On(f32),
    Move(i16, i64),
    Say {
        text: String,
    },
}"""
        self.assertEqual(str(known), expected)
