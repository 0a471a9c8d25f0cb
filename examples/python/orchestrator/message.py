"""Messages: dataclasses with a name by which links know them.

>>> @message("acme.imu.v1")
... @dataclass
... class Imu:
...     n: UInt32
...     acceleration: Annotated[list[Float32], Length(3)]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Callable, Optional, TypeVar

from .errors import DecodeError, EncodeError, SchemaError
from .reflect import codec_of
from .schema import Schema

_T = TypeVar("_T")
_Class = TypeVar("_Class", bound=type)

MAX_NAME = 255
"""The longest name of a message, bytes of UTF-8."""
MAX_PAYLOAD = 64 << 20
"""The largest payload of a message, bytes."""


def message(
    name: str,
    reads: Optional[Mapping[type, Callable[[Any], Any]]] = None,
    writes: Optional[Mapping[type, Callable[[Any], Any]]] = None,
) -> Callable[[_Class], _Class]:
    """Gives a dataclass the name by which links know it: 1 to 255 bytes, without control
    characters. Two programs mean the same type by the same name; put a version into it, for when it
    changes so much that `reads` can't bridge it.

    `reads` has other forms of this type that an input of it takes as well, best first: those that
    programs send which were built against another definition of it, and how one becomes a message
    of this type. They have the same name.

    `writes` has other forms in which an output of it has each message as well, for programs that were
    built against another definition and don't read this one: and how one becomes such a form. Each
    receiver gets the one form that is the best for it; each message costs the time and the bytes of
    all of them.

    >>> @message("acme.mass", reads={MassInGrams: lambda old: Mass(old.grams / 1000)})
    ... @dataclass
    ... class Mass:
    ...     kilograms: Float64

    Stands above `@dataclass`. Raises `SchemaError` for another name, and for what is no dataclass.
    The fields are looked at when the type is first used, see `schema_of`.
    """
    if not isinstance(name, str) or not 1 <= len(name.encode("utf-8", "replace")) <= MAX_NAME:
        raise SchemaError(f"the name of a message has 1 to {MAX_NAME} bytes: {name!r}")
    if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in name):
        raise SchemaError(f"the name of a message has no control characters: {name!r}")

    def named(cls: _Class) -> _Class:
        if not dataclasses.is_dataclass(cls):
            raise SchemaError(f"{cls.__qualname__} is no dataclass; put @dataclass below @message")
        cls.__orchestrator_message__ = name  # type: ignore[attr-defined]
        cls.__orchestrator_reads__ = dict(reads or {})  # type: ignore[attr-defined]
        cls.__orchestrator_writes__ = dict(writes or {})  # type: ignore[attr-defined]
        return cls

    return named


def name_of(cls: type) -> str:
    """The name of a message type. Raises `SchemaError` if the class itself has none."""
    name = getattr(cls, "__dict__", {}).get("__orchestrator_message__")
    if not isinstance(name, str):
        shown = getattr(cls, "__qualname__", repr(cls))
        raise SchemaError(f'{shown} is no message; put @message("company.thing.v1") above it')
    return name


def reads_of(cls: type) -> dict[type, Callable[[Any], Any]]:
    """The other forms that a message type reads, best first, and how they become messages."""
    reads: dict[type, Callable[[Any], Any]] = cls.__dict__.get("__orchestrator_reads__", {})
    return reads


def writes_of(cls: type) -> dict[type, Callable[[Any], Any]]:
    """The other forms in which a message type is written, best first, and how they are made."""
    writes: dict[type, Callable[[Any], Any]] = cls.__dict__.get("__orchestrator_writes__", {})
    return writes


def schema_of(tp: Any) -> Schema:
    """The schema of a message, or of any type that can be part of one.

    >>> schema_of(UInt32).canonical
    b'\\x03'

    Raises `SchemaError` with what is wrong with the type.
    """
    return Schema(codec_of(tp).node)


def encode(value: Any) -> bytes:
    """The payload of a message: its value in postcard.

    Raises `EncodeError` for a value that does not fit its type, or has more than `MAX_PAYLOAD`
    bytes, and `SchemaError` for a type that can't be a message.
    """
    out = bytearray()
    codec_of(type(value)).encode(value, out)
    if len(out) > MAX_PAYLOAD:
        raise EncodeError(f"the message has {len(out)} bytes; at most {MAX_PAYLOAD} can be sent")
    return bytes(out)


def decode(cls: type[_T], payload: bytes) -> _T:
    """The message that has this payload.

    Raises `DecodeError` if the payload is anything else than exactly one value of this type.
    """
    value, end = codec_of(cls).decode(payload, 0)
    if end != len(payload):
        raise DecodeError(f"{len(payload) - end} bytes follow the end of the value")
    result: _T = value
    return result
