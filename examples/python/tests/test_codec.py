"""Values and payloads: examples, random round trips, and bytes that are no value."""

import enum
import math
import struct
import unittest
from dataclasses import dataclass
from typing import Annotated, Any, Callable, Optional, Union

from chance import chance

from orchestrator import (
    ByteList,
    Char,
    DecodeError,
    EncodeError,
    Float32,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    Int128,
    Length,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    UInt128,
    decode,
    encode,
    unnamed,
)
from orchestrator.reflect import codec_of

WIDTHS = {8: (UInt8, Int8), 16: (UInt16, Int16), 32: (UInt32, Int32), 64: (UInt64, Int64)}
WIDTHS[128] = (UInt128, Int128)


class Mode(enum.Enum):
    OFF = 0
    ON = 1


@dataclass(frozen=True)
class Empty:
    pass


@unnamed
@dataclass(frozen=True)
class Pair:
    a: UInt8
    b: str


@dataclass
class All:
    flag: bool
    u8: UInt8
    u64: UInt64
    u128: UInt128
    i8: Int8
    i32: Int32
    i128: Int128
    f32: Float32
    f64: Float64
    char: Char
    text: str
    raw: bytes
    octets: ByteList
    maybe: Optional[list[Optional[UInt16]]]
    floats: list[Float32]
    many: tuple[str, ...]
    array: Annotated[list[Float64], Length(2)]
    key: Annotated[bytes, Length(3)]
    pair: tuple[UInt8, str]
    table: dict[str, Pair]
    modes: dict[Mode, Int16]
    choice: Union[Empty, Pair]
    none: None


def put(tp: Any, value: Any) -> bytes:
    out = bytearray()
    codec_of(tp).encode(value, out)
    return bytes(out)


def take(tp: Any, payload: bytes) -> Any:
    value, end = codec_of(tp).decode(payload, 0)
    if end != len(payload):
        raise DecodeError("trailing")
    return value


def single(value: float) -> float:
    """As a Float32 holds it."""
    (held,) = struct.unpack("<f", struct.pack("<f", value))
    assert isinstance(held, float)
    return held


def arbitrary(dice: Any) -> All:
    def number(bits: int, signed: bool) -> int:
        low = -1 << bits - 1 if signed else 0
        high = (1 << bits - 1) - 1 if signed else (1 << bits) - 1
        near: int = dice.choice([low, high, 0, 127, -127, 128, dice.randint(low, high)])
        return min(max(near, low), high)

    def text() -> str:
        return "".join(dice.choice("aé漢🤖\0\n") for _ in range(dice.randrange(80)))

    def real() -> float:
        value = dice.choice([0.0, -1.5, math.inf, 1e300, dice.random()])
        assert isinstance(value, float)
        return value

    def some(make: Callable[[], Any]) -> list[Any]:
        return [make() for _ in range(dice.randrange(5))]

    def small() -> float:
        return single(dice.uniform(-10, 10))

    return All(
        flag=dice.random() < 0.5,
        u8=number(8, False),
        u64=number(64, False),
        u128=number(128, False),
        i8=number(8, True),
        i32=number(32, True),
        i128=number(128, True),
        f32=small(),
        f64=real(),
        char=dice.choice("aé漢🤖\0"),
        text=text(),
        raw=dice.randbytes(dice.randrange(300)),
        octets=dice.randbytes(dice.randrange(3)),
        maybe=None if dice.random() < 0.3 else some(lambda: dice.choice([None, number(16, False)])),
        floats=some(small),
        many=tuple(some(text)),
        array=[real(), real()],
        key=dice.randbytes(3),
        pair=(number(8, False), text()),
        table={text(): Pair(number(8, False), text()) for _ in range(dice.randrange(4))},
        modes={mode: number(16, True) for mode in Mode if dice.random() < 0.5},
        choice=dice.choice([Empty(), Pair(1, text())]),
        none=None,
    )


class Examples(unittest.TestCase):
    def test_those_of_the_page(self) -> None:
        for tp, value, expected in [
            (UInt16, 300, "ac02"),
            (UInt64, 2**64 - 1, "ffffffffffffffffff01"),
            (Int32, 15, "1e"),
            (Int32, -1, "01"),
            (str, "é", "02c3a9"),
            (Optional[UInt32], 5, "0105"),
            (Int8, -1, "ff"),
            (Float32, 1.5, "0000c03f"),
            (Char, "é", "02c3a9"),
            (dict[Int32, str], {-1: "a"}, "01010161"),
            (Union[Empty, Pair], Pair(7, ""), "010700"),
        ]:
            with self.subTest(expected):
                self.assertEqual(put(tp, value).hex(), expected)
                self.assertEqual(take(tp, bytes.fromhex(expected)), value)

    def test_the_ends_of_integers(self) -> None:
        for bits, (unsigned, signed) in WIDTHS.items():
            for tp, low in ((unsigned, 0), (signed, -1 << bits - 1)):
                high = low + (1 << bits) - 1
                for value in (low, low + 1, high - 1, high):
                    self.assertEqual(take(tp, put(tp, value)), value)
                for value in (low - 1, high + 1):
                    with self.assertRaisesRegex(EncodeError, "does not fit"):
                        put(tp, value)

    def test_random_values_are_read_back(self) -> None:
        dice = chance("values")
        for _ in range(400):
            value = arbitrary(dice)
            self.assertEqual(decode(All, encode(value)), value)

    def test_what_is_like_a_list_can_be_sent(self) -> None:
        self.assertEqual(put(list[UInt8], b"\1\2"), b"\2\1\2")
        self.assertEqual(put(list[UInt16], range(3)), b"\3\0\1\2")
        self.assertEqual(put(list[Float32], (1, 2.0)), put(list[Float32], [1.0, 2.0]))
        self.assertEqual(put(bytes, bytearray(b"a")), b"\1a")


class Refused(unittest.TestCase):
    def test_values_that_do_not_fit(self) -> None:
        for tp, value, problem in [
            (UInt8, "1", "'1' is no integer"),
            (UInt8, 1.0, "no integer"),
            (UInt8, 256, "256 does not fit UInt8, which holds 0 to 255"),
            (bool, 1, "no bool"),
            (str, b"a", "no str"),
            (str, "\ud800", "UTF-8"),
            (bytes, "a", "no bytes"),
            (bytes, [1], "no bytes"),
            (Char, "ab", "not one character"),
            (Char, "", "not one character"),
            (Float32, "x", "does not fit Float32"),
            (Float32, 1e300, "does not fit Float32"),
            (Float64, None, "does not fit Float64"),
            (None, 0, "not None"),
            (list[str], "abc", "no list"),
            (list[str], 5, "no list"),
            (list[str], ["a", 1], r"\[1\]: 1 is no str"),
            (list[Float32], [1.0, "x"], r"\[1\]: 'x' does not fit Float32"),
            (tuple[UInt8, str], (1,), "1 elements; there have to be 2"),
            (Annotated[bytes, Length(3)], b"ab", "2 bytes; there have to be 3"),
            (Annotated[list[Float32], Length(2)], [1.0], "1 elements; there have to be 2"),
            (dict[str, UInt8], [("a", 1)], "no dict"),
            (dict[str, UInt8], {"a": -1}, r"\['a'\]: -1 does not fit"),
            (Mode, 0, "a int is no Mode"),
            (Union[Empty, Pair], None, "a NoneType is no Empty or Pair"),
            (Pair, Empty(), "a Empty is no Pair"),
            (Pair, Pair(1, 2), "b: 2 is no str"),  # type: ignore[arg-type]
        ]:
            with self.subTest(problem), self.assertRaisesRegex(EncodeError, problem):
                put(tp, value)

    def test_a_place_is_named_from_the_outside_in(self) -> None:
        value = arbitrary(chance("a value"))
        value.table = {"k": Pair(300, "")}
        with self.assertRaises(EncodeError) as caught:
            encode(value)
        self.assertEqual(caught.exception.path, ["table", "['k']", "a"])

    def test_payloads_that_are_no_value(self) -> None:
        for tp, payload, problem in [
            (UInt8, "", "end in the middle"),
            (UInt16, "ffff04", "more than 16 bits"),
            (UInt16, "80808000", "more than 16 bits"),
            (UInt64, "ffffffffffffffffff02", "more than 64 bits"),
            (UInt128, "ff" * 18 + "04", "more than 128 bits"),
            (UInt32, "80", "end in the middle"),
            (bool, "02", "0 or 1, not 2"),
            (Optional[UInt8], "02", "0 or 1, not 2"),
            (str, "0161ff", "trailing"),
            (str, "02c3", "end in the middle"),
            (str, "02c328", "not UTF-8"),
            (Char, "026161", "one character, not 2"),
            (Char, "00", "one character, not 0"),
            (Float64, "00000000000000", "end in the middle"),
            (bytes, "ffffffffffffffffff01", "end in the middle"),
            (list[str], "ffffffffffffffffff01", "a list of 18446744073709551615 elements"),
            (list[Float32], "02" + "00" * 7, "2 elements in 7 bytes"),
            (dict[UInt8, UInt8], "0201", "2 pairs in 1 bytes"),
            (dict[UInt8, bool], "010505", r"\[5\]: a bool"),
            (Mode, "02", "no variant number 2"),
            (Union[Empty, Pair], "ffffffff0f", "no variant number 4294967295"),
            (tuple[UInt8, UInt8], "01", r"\[1\]: .*end in the middle"),
            (Annotated[bytes, Length(3)], "0102", "end in the middle"),
            (Annotated[list[Float32], Length(1)], "0102", "end in the middle"),
            (Pair, "0102c3", "b: .*end in the middle"),
        ]:
            with self.subTest(problem), self.assertRaisesRegex(DecodeError, problem):
                take(tp, bytes.fromhex(payload))
        with self.assertRaisesRegex(DecodeError, "1 bytes follow"):
            decode(Empty, b"\0")

    def test_hostile_payloads_are_refused_quickly(self) -> None:
        dice = chance("hostile payloads")
        for _ in range(3000):
            payload = bytearray(encode(arbitrary(dice)))
            for _ in range(dice.randrange(4)):
                payload[dice.randrange(len(payload))] = dice.choice([0, 1, 0x7F, 0x80, 0xFF])
            if dice.random() < 0.5:
                del payload[dice.randrange(len(payload)) :]
            try:
                value = decode(All, bytes(payload))
            except DecodeError:
                continue
            # Whatever was read can be written.
            encode(value)
        for _ in range(3000):
            try:
                decode(All, dice.randbytes(dice.randrange(200)))
            except DecodeError:
                pass

    def test_what_a_class_refuses_can_t_be_decoded(self) -> None:
        @dataclass
        class Even:
            value: UInt8

            def __post_init__(self) -> None:
                if self.value % 2:
                    raise ValueError("odd")

        self.assertEqual(decode(Even, b"\2"), Even(2))
        with self.assertRaisesRegex(DecodeError, "Even refuses the values: odd"):
            decode(Even, b"\1")

    def test_too_long(self) -> None:
        @dataclass
        class Blob:
            raw: bytes

        largest = 64 << 20
        encode(Blob(bytes(largest - 4)))
        with self.assertRaisesRegex(EncodeError, "at most 67108864 can be sent"):
            encode(Blob(bytes(largest - 3)))
