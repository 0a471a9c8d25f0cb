"""How the fields of a message say what Python's own types leave open: how wide an integer is, how
many elements an array has, what a field is called on the wire.

| here | in Rust |
| --- | --- |
| `bool`, `str`, `bytes`, `None` | `bool`, `String`, `serde_bytes::ByteBuf`, `()` |
| `UInt8` … `UInt128`, `Int8` … `Int128` | `u8` … `u128`, `i8` … `i128` |
| `float` or `Float64`, `Float32` | `f64`, `f32` |
| `Char` | `char` |
| `ByteList` | `Vec<u8>` |
| `Optional[T]` | `Option<T>` |
| `list[T]`, `tuple[T, ...]` | `Vec<T>` |
| `Annotated[list[T], Length(3)]` | `[T; 3]` |
| `Annotated[bytes, Length(16)]` | `[u8; 16]` |
| `tuple[A, B]` | `(A, B)` |
| `dict[K, V]` | `HashMap<K, V>`, `BTreeMap<K, V>` |
| a dataclass | a struct with named fields; without fields, `struct Stop;` |
| a dataclass with `@unnamed` | a tuple struct |
| an `enum.Enum` | an enum of variants without content |
| a `Union` of dataclasses | an enum; each class is the variant of its name |

The variants of an `enum.Enum` are called as its members' values if these are texts, else as the
members. Variants have the order in which they stand here; `typing` takes two Unions of the same
classes for one in places such as `List[…]`, whatever their order, so don't make two.

A plain `int` is refused, since it does not say how wide it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Callable, TypeVar

from . import schema

_Class = TypeVar("_Class", bound=type)


@dataclass(frozen=True)
class Kind:
    """Says which node of a schema a Python type stands for. The aliases below carry it."""

    node: schema.Node


@dataclass(frozen=True)
class Length:
    """Makes a list, or `bytes`, an array of exactly so many elements, at least one.

    >>> Covariance = Annotated[list[Float32], Length(9)]
    """

    count: int


@dataclass(frozen=True)
class Name:
    """What a field is called on the wire, if Python has no such name.

    >>> sender: Annotated[str, Name("from")]
    """

    name: str


UInt8 = Annotated[int, Kind(schema.U8)]
UInt16 = Annotated[int, Kind(schema.U16)]
UInt32 = Annotated[int, Kind(schema.U32)]
UInt64 = Annotated[int, Kind(schema.U64)]
UInt128 = Annotated[int, Kind(schema.U128)]
Int8 = Annotated[int, Kind(schema.I8)]
Int16 = Annotated[int, Kind(schema.I16)]
Int32 = Annotated[int, Kind(schema.I32)]
Int64 = Annotated[int, Kind(schema.I64)]
Int128 = Annotated[int, Kind(schema.I128)]
Float32 = Annotated[float, Kind(schema.F32)]
Float64 = Annotated[float, Kind(schema.F64)]
Char = Annotated[str, Kind(schema.CHAR)]
"""One character."""
ByteList = Annotated[bytes, Kind(schema.Seq(schema.U8))]
"""`bytes` here, a sequence of `u8` in the schema: the twin of Rust's `Vec<u8>`."""


def unnamed(cls: _Class) -> _Class:
    """The names of this dataclass's fields are not part of the schema: with one field it is what
    that field is, with several it is a tuple. The twin of Rust's `struct Celsius(f32);`.

    >>> @unnamed
    ... @dataclass
    ... class Celsius:
    ...     degrees: Float32
    """
    cls.__orchestrator_unnamed__ = True  # type: ignore[attr-defined]
    return cls


def variant(name: str) -> Callable[[_Class], _Class]:
    """The name of the variant that this dataclass is in a `Union`, instead of its own.

    >>> @variant("Stop")
    ... @dataclass
    ... class StopCommand:
    ...     pass
    """

    def named(cls: _Class) -> _Class:
        cls.__orchestrator_variant__ = name  # type: ignore[attr-defined]
        return cls

    return named
