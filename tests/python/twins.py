"""The twins of the types in twins.rs. Reads a type's name and a payload in hexadecimal from each
line; answers with its canonical form, its hash, and the payload that it makes of what it read."""

import enum
import sys
from dataclasses import dataclass
from typing import Annotated, Optional, Union

from orchestrator import (
    ByteList,
    Char,
    Float32,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    Int128,
    Length,
    Name,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    UInt128,
    decode,
    encode,
    message,
    name_of,
    schema_of,
    unnamed,
    variant,
)


@message("twins.scalars.v1")
@dataclass
class Scalars:
    a: bool
    b: UInt8
    c: UInt16
    d: UInt32
    e: UInt64
    f: UInt128
    g: Int8
    h: Int16
    i: Int32
    j: Int64
    k: Int128
    l: Float32
    m: Float64
    n: Char
    o: str


class Mode(enum.Enum):
    OFF = "Off"
    STAND_BY = "StandBy"


@unnamed
@dataclass(frozen=True)
class Celsius:
    degrees: Float32


@unnamed
@dataclass(frozen=True)
class Pair:
    a: UInt8
    b: Int16


@dataclass
class Off:
    pass


@unnamed
@dataclass
class On:
    level: Float32


@unnamed
@dataclass
class Move:
    x: Int16
    y: Int64


@variant("Say")
@dataclass
class SayIt:
    text: str
    of: Optional[Pair]


Command = Union[Off, On, Move, SayIt]


@message("twins.composed.v1")
@dataclass
class Composed:
    type: Annotated[Mode, Name("type")]
    maybe: Optional[list[str]]
    array: Annotated[list[Float32], Length(3)]
    bytes: ByteList
    key: Annotated[bytes, Length(4)]
    pair: tuple[UInt8, str]
    map: dict[str, Pair]
    by_number: dict[Int32, list[Celsius]]
    commands: list[Command]
    nothing: None
    stop: Off
    one: tuple[UInt8]


@message("twins.number.v1")
@unnamed
@dataclass
class Number:
    value: Int64


TYPES = {name_of(cls): cls for cls in (Scalars, Composed, Number)}

for line in sys.stdin:
    name, payload = line.split(":")
    cls = TYPES[name]
    value = decode(cls, bytes.fromhex(payload))
    schema = schema_of(cls)
    print(schema.canonical.hex(), schema.hash.hex(), encode(value).hex(), flush=True)
