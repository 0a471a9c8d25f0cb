"""Values to bytes and back, in the postcard format: PROTOCOL.md, section 2.

A `Codec` is a pair of functions for one type. Codecs of larger types are built from those of
their parts once, when a type is first used; after that no type is looked at any more.

What is decoded comes from outside, so nothing is made for what bytes only claim: each element of a
list takes at least one byte, so the work is bounded by the payload's length, and its depth by the
schema's. Anything that is not exactly a value of the type is a `DecodeError`.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

from . import schema
from .errors import DecodeError, EncodeError

Encode = Callable[[Any, bytearray], None]
"""Appends a value. Raises `EncodeError`; what was appended until then is to be thrown away."""
Decode = Callable[[bytes, int], tuple[Any, int]]
"""The value that begins at a place, and the place after it. Raises `DecodeError`."""


@dataclass(frozen=True)
class Codec:
    """How one type is encoded and decoded."""

    node: schema.Node
    encode: Encode
    decode: Decode
    least: int
    """The least bytes that a value takes."""
    hashable: bool
    """Whether its values can be keys of a dict."""


def ends() -> DecodeError:
    """The bytes end before the value does."""
    return DecodeError("the bytes end in the middle of a value")


# Integers


def put_varint(number: int, out: bytearray) -> None:
    """Seven bits in each byte, the lowest first; the top bit says that more follow."""
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _varint_decoder(bits: int) -> Callable[[bytes, int], tuple[int, int]]:
    most_bytes = (bits + 6) // 7
    bound = 1 << bits

    def decode(data: bytes, at: int) -> tuple[int, int]:
        try:
            number = data[at]
            if number < 0x80:
                return number, at + 1
            number &= 0x7F
            for place in range(1, most_bytes):
                byte = data[at + place]
                number |= (byte & 0x7F) << 7 * place
                if byte < 0x80:
                    if number >= bound:
                        break
                    return number, at + place + 1
        except IndexError:
            raise ends() from None
        raise DecodeError(f"a number of more than {bits} bits")

    return decode


take_length = _varint_decoder(64)
"""A length or a count."""
take_variant = _varint_decoder(32)
"""The number of a variant."""


def _integer(value: Any, low: int, high: int, name: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise EncodeError(f"{_shown(value)} is no integer") from None
    if low <= number <= high:
        return number
    raise EncodeError(f"{_shown(number)} does not fit {name}, which holds {low} to {high}")


def _shown(value: Any) -> str:
    """A value for an error: short, whatever it is."""
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _unsigned(node: schema.Scalar, bits: int) -> Codec:
    high, name = (1 << bits) - 1, f"UInt{bits}"

    def encode(value: Any, out: bytearray) -> None:
        if type(value) is not int or not 0 <= value <= high:
            value = _integer(value, 0, high, name)
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)

    return Codec(node, encode, _varint_decoder(bits), 1, True)


def _signed(node: schema.Scalar, bits: int) -> Codec:
    low, high, name = -1 << bits - 1, (1 << bits - 1) - 1, f"Int{bits}"
    take = _varint_decoder(bits)

    def encode(value: Any, out: bytearray) -> None:
        value = _integer(value, low, high, name)
        put_varint(value << 1 if value >= 0 else -2 * value - 1, out)

    def decode(data: bytes, at: int) -> tuple[int, int]:
        zigzag, at = take(data, at)
        return (zigzag >> 1) ^ -(zigzag & 1), at

    return Codec(node, encode, decode, 1, True)


def _encode_u8(value: Any, out: bytearray) -> None:
    out.append(_integer(value, 0, 0xFF, "UInt8"))


def _decode_u8(data: bytes, at: int) -> tuple[int, int]:
    try:
        return data[at], at + 1
    except IndexError:
        raise ends() from None


def _encode_i8(value: Any, out: bytearray) -> None:
    out.append(_integer(value, -0x80, 0x7F, "Int8") & 0xFF)


def _decode_i8(data: bytes, at: int) -> tuple[int, int]:
    byte, at = _decode_u8(data, at)
    return byte - 0x100 if byte > 0x7F else byte, at


# Other scalars


def _encode_bool(value: Any, out: bytearray) -> None:
    if value is True:
        out.append(1)
    elif value is False:
        out.append(0)
    else:
        raise EncodeError(f"{_shown(value)} is no bool")


def _decode_bool(data: bytes, at: int) -> tuple[bool, int]:
    byte, at = _decode_u8(data, at)
    if byte > 1:
        raise DecodeError(f"a bool is 0 or 1, not {byte}")
    return byte == 1, at


def _float(node: schema.Scalar, layout: str, name: str) -> Codec:
    packed = struct.Struct(layout)
    size, pack, unpack_from = packed.size, packed.pack, packed.unpack_from

    def encode(value: Any, out: bytearray) -> None:
        try:
            out += pack(value)
        except (struct.error, OverflowError, TypeError) as error:
            raise EncodeError(f"{_shown(value)} does not fit {name}: {error}") from None

    def decode(data: bytes, at: int) -> tuple[float, int]:
        try:
            return unpack_from(data, at)[0], at + size
        except struct.error:
            raise ends() from None

    return Codec(node, encode, decode, size, True)


def _encode_str(value: Any, out: bytearray) -> None:
    if not isinstance(value, str):
        raise EncodeError(f"{_shown(value)} is no str")
    try:
        text = value.encode()
    except UnicodeEncodeError:
        raise EncodeError(f"{_shown(value)} has characters that UTF-8 can't hold") from None
    put_varint(len(text), out)
    out += text


def _decode_str(data: bytes, at: int) -> tuple[str, int]:
    text, at = _decode_bytes(data, at)
    try:
        return text.decode(), at
    except UnicodeDecodeError:
        raise DecodeError("a text that is not UTF-8") from None


def _encode_char(value: Any, out: bytearray) -> None:
    if not isinstance(value, str) or len(value) != 1:
        raise EncodeError(f"{_shown(value)} is not one character")
    _encode_str(value, out)


def _decode_char(data: bytes, at: int) -> tuple[str, int]:
    text, at = _decode_str(data, at)
    if len(text) != 1:
        raise DecodeError(f"a char is one character, not {len(text)}")
    return text, at


def _content(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise EncodeError(f"{_shown(value)} is no bytes")


def _encode_bytes(value: Any, out: bytearray) -> None:
    content = _content(value)
    put_varint(len(content), out)
    out += content


def _decode_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    length, at = take_length(data, at)
    end = at + length
    if end > len(data):
        raise ends()
    return data[at:end], end


def _encode_unit(value: Any, out: bytearray) -> None:
    if value is not None:
        raise EncodeError(f"{_shown(value)} is not None")


def _decode_unit(data: bytes, at: int) -> tuple[None, int]:
    return None, at


_WIDE = (16, 32, 64, 128)
SCALARS: dict[schema.Node, Codec] = {
    codec.node: codec
    for codec in (
        Codec(schema.BOOL, _encode_bool, _decode_bool, 1, True),
        Codec(schema.U8, _encode_u8, _decode_u8, 1, True),
        *(_unsigned(schema.Scalar(2 + i), bits) for i, bits in enumerate(_WIDE)),
        Codec(schema.I8, _encode_i8, _decode_i8, 1, True),
        *(_signed(schema.Scalar(7 + i), bits) for i, bits in enumerate(_WIDE)),
        _float(schema.F32, "<f", "Float32"),
        _float(schema.F64, "<d", "Float64"),
        Codec(schema.CHAR, _encode_char, _decode_char, 2, True),
        Codec(schema.STRING, _encode_str, _decode_str, 1, True),
        Codec(schema.BYTES, _encode_bytes, _decode_bytes, 1, True),
        Codec(schema.UNIT, _encode_unit, _decode_unit, 0, True),
    )
}
"""The codecs of types without parts."""

BYTE_LIST = Codec(schema.Seq(schema.U8), _encode_bytes, _decode_bytes, 1, True)
"""A sequence of `u8` as `bytes`."""


def byte_array(count: int) -> Codec:
    """An array of so many `u8` as `bytes`."""

    def encode(value: Any, out: bytearray) -> None:
        content = _content(value)
        if len(content) != count:
            raise EncodeError(f"{len(content)} bytes; there have to be {count}")
        out += content

    def decode(data: bytes, at: int) -> tuple[bytes, int]:
        if at + count > len(data):
            raise ends()
        return data[at : at + count], at + count

    return Codec(schema.TupleOf((schema.U8,) * count), encode, decode, count, True)


# What has parts


def option(inner: Codec) -> Codec:
    """A value or `None`."""
    put, take = inner.encode, inner.decode

    def encode(value: Any, out: bytearray) -> None:
        if value is None:
            out.append(0)
        else:
            out.append(1)
            put(value, out)

    def decode(data: bytes, at: int) -> tuple[Any, int]:
        there, at = _decode_u8(data, at)
        if there == 0:
            return None, at
        if there == 1:
            return take(data, at)
        raise DecodeError(f"an optional value begins with 0 or 1, not {there}")

    return Codec(schema.Option(inner.node), encode, decode, 1, inner.hashable)


def _elements(value: Any) -> Sequence[Any]:
    if isinstance(value, (list, tuple)):
        return value
    if not isinstance(value, (str, dict)) and hasattr(value, "__len__"):
        try:
            return list(value)
        except Exception as error:
            raise EncodeError(f"{_shown(value)} can't be read as a list: {error}") from None
    raise EncodeError(f"{_shown(value)} is no list")


def _put_all(elements: Sequence[Any], puts: Sequence[Encode], out: bytearray) -> None:
    index = 0
    try:
        for index, put in enumerate(puts):
            put(elements[index], out)
    except EncodeError as error:
        raise error.within(f"[{index}]") from None


_PACKED: dict[schema.Node, tuple[str, int]] = {schema.F32: ("f", 4), schema.F64: ("d", 8)}


def _pack_floats(elements: Sequence[Any], letter: str, out: bytearray) -> bool:
    """False if one of them is no such number: the slow way says which."""
    try:
        out += struct.pack(f"<{len(elements)}{letter}", *elements)
    except (struct.error, OverflowError, TypeError):
        return False
    return True


def _take_floats(data: bytes, at: int, count: int, letter: str, size: int) -> tuple[Any, int]:
    end = at + count * size
    if end > len(data):
        raise ends()
    return struct.unpack_from(f"<{count}{letter}", data, at), end


def seq(inner: Codec, make: Callable[[Any], Any]) -> Codec:
    """Any number of elements, of which each takes at least a byte; `make` is `list` or `tuple`."""
    put, take, least = inner.encode, inner.decode, inner.least
    letter, size = _PACKED.get(inner.node, ("", 0))

    def encode(value: Any, out: bytearray) -> None:
        elements = _elements(value)
        put_varint(len(elements), out)
        if not letter or not _pack_floats(elements, letter, out):
            _put_all(elements, [put] * len(elements), out)

    def decode(data: bytes, at: int) -> tuple[Any, int]:
        count, at = take_length(data, at)
        if count * least > len(data) - at:
            raise DecodeError(f"a list of {count} elements in {len(data) - at} bytes")
        if letter:
            floats, at = _take_floats(data, at, count, letter, size)
            return make(floats), at
        elements: list[Any] = []
        append = elements.append
        try:
            for _ in range(count):
                element, at = take(data, at)
                append(element)
        except DecodeError as error:
            raise error.within(f"[{len(elements)}]") from None
        return elements if make is list else make(elements), at

    hashable = inner.hashable and make is tuple
    return Codec(schema.Seq(inner.node), encode, decode, 1, hashable)


def fixed(inner: Sequence[Codec], make: Callable[[Any], Any]) -> Codec:
    """Exactly one element of each of these types."""
    puts, takes, count = [c.encode for c in inner], [c.decode for c in inner], len(inner)
    node = schema.TupleOf(tuple(c.node for c in inner))
    same = all(c.node == inner[0].node for c in inner)
    letter, size = _PACKED.get(inner[0].node, ("", 0)) if same else ("", 0)

    def encode(value: Any, out: bytearray) -> None:
        elements = _elements(value)
        if len(elements) != count:
            raise EncodeError(f"{len(elements)} elements; there have to be {count}")
        if not letter or not _pack_floats(elements, letter, out):
            _put_all(elements, puts, out)

    def decode(data: bytes, at: int) -> tuple[Any, int]:
        if letter:
            floats, at = _take_floats(data, at, count, letter, size)
            return make(floats), at
        elements: list[Any] = []
        try:
            for take in takes:
                element, at = take(data, at)
                elements.append(element)
        except DecodeError as error:
            raise error.within(f"[{len(elements)}]") from None
        return make(elements), at

    hashable = make is tuple and all(c.hashable for c in inner)
    return Codec(node, encode, decode, sum(c.least for c in inner), hashable)


def mapping(key: Codec, value: Codec) -> Codec:
    """Keys and values, in the order of the dict. A key that comes twice has the later value."""
    least = key.least + value.least

    def encode(pairs: Any, out: bytearray) -> None:
        if not isinstance(pairs, dict):
            raise EncodeError(f"{_shown(pairs)} is no dict")
        put_varint(len(pairs), out)
        for k, v in pairs.items():
            try:
                key.encode(k, out)
                value.encode(v, out)
            except EncodeError as error:
                raise error.within(f"[{_shown(k)}]") from None

    def decode(data: bytes, at: int) -> tuple[dict[Any, Any], int]:
        count, at = take_length(data, at)
        if count * least > len(data) - at:
            raise DecodeError(f"a map of {count} pairs in {len(data) - at} bytes")
        pairs: dict[Any, Any] = {}
        for _ in range(count):
            k, at = key.decode(data, at)
            try:
                pairs[k], at = value.decode(data, at)
            except DecodeError as error:
                raise error.within(f"[{_shown(k)}]") from None
        return pairs, at

    return Codec(schema.Map(key.node, value.node), encode, decode, 1, False)
