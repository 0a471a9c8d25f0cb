"""From Python types to codecs; `kinds` has the table of what becomes what."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import typing
from collections.abc import Sequence
from typing import Any, Callable, Union

from . import codec, schema
from .codec import Codec
from .errors import DecodeError, EncodeError, SchemaError
from .kinds import Kind, Length, Name

_PLAIN = {
    bool: schema.BOOL,
    float: schema.F64,
    str: schema.STRING,
    bytes: schema.BYTES,
    type(None): schema.UNIT,
}
_UNIONS = (Union, getattr(__import__("types"), "UnionType", Union))

_Building = frozenset[type]
"""The classes inside which we are."""

_classes: dict[type, Codec] = {}


def codec_of(tp: Any) -> Codec:
    """How values of this type are encoded.

    Raises `SchemaError` if it can't be part of a message, with what to write instead.
    """
    return _codec(tp, frozenset())


def _codec(tp: Any, building: _Building) -> Codec:
    if tp is None:
        return codec.SCALARS[schema.UNIT]
    if tp is int:
        raise SchemaError("an int needs a width: write Int64, UInt32 or the like instead")
    if isinstance(tp, type) and tp in _PLAIN:
        return codec.SCALARS[_PLAIN[tp]]
    origin, args = typing.get_origin(tp), typing.get_args(tp)
    if origin is typing.Annotated:
        return _annotated(args[0], tp.__metadata__, building)
    if origin in _UNIONS:
        return _union(args, building)
    if origin in (list, collections.abc.Sequence) and args:
        return _seq(_codec(args[0], building), list)
    if origin is tuple and args and args != ((),):
        if len(args) == 2 and args[1] is Ellipsis:
            return _seq(_codec(args[0], building), tuple)
        return codec.fixed([_codec(arg, building) for arg in args], tuple)
    if origin in (dict, collections.abc.Mapping) and args:
        return _map(_codec(args[0], building), _codec(args[1], building))
    for alias in ("__supertype__", "__value__"):  # NewType, and the statement `type`
        if hasattr(tp, alias) and not isinstance(tp, type):
            return _codec(getattr(tp, alias), building)
    if isinstance(tp, type) and issubclass(tp, enum.Enum):
        return _plain_enum(tp)
    if isinstance(tp, type) and dataclasses.is_dataclass(tp):
        return _dataclass(tp, building)
    shown = getattr(tp, "__name__", None) or str(tp)
    raise SchemaError(
        f"{shown} can't be part of a message; there are bool, Int8 to UInt128, Float32, float, "
        "Char, str, bytes, ByteList, None, Optional, list, tuple and dict with types in their "
        "brackets, dataclasses, Unions of dataclasses, and enums"
    )


def _annotated(tp: Any, metadata: Sequence[Any], building: _Building) -> Codec:
    kinds = [note for note in metadata if isinstance(note, Kind)]
    lengths = [note for note in metadata if isinstance(note, Length)]
    if len(kinds) + len(lengths) > 1:
        raise SchemaError("one of Kind and Length is enough; an array is a list[T] with a Length")
    if kinds:
        node = kinds[0].node
        return codec.BYTE_LIST if node == codec.BYTE_LIST.node else codec.SCALARS[node]
    if not lengths:
        return _codec(tp, building)
    count, args = lengths[0].count, typing.get_args(tp)
    if not 1 <= count <= schema.MAX_NODES:
        raise SchemaError(f"an array has 1 to {schema.MAX_NODES} elements, not {count}")
    if tp is bytes:
        return codec.byte_array(count)
    if typing.get_origin(tp) is list and args:
        return codec.fixed([_codec(args[0], building)] * count, list)
    raise SchemaError("Length belongs to a list[T] or to bytes")


def _seq(inner: Codec, make: Callable[[Any], Any]) -> Codec:
    if inner.least == 0:
        raise SchemaError("a list of values without content; send how many there are instead")
    return codec.seq(inner, make)


def _map(key: Codec, value: Codec) -> Codec:
    if not key.hashable:
        raise SchemaError(
            "the keys of a dict have to be hashable: scalars, texts, enums, tuples of these, or "
            "frozen dataclasses"
        )
    if key.least + value.least == 0:
        raise SchemaError("a dict without content; send how many pairs there are instead")
    return codec.mapping(key, value)


# Classes


def _dataclass(cls: type, building: _Building) -> Codec:
    if cls in building:
        raise SchemaError(f"{cls.__qualname__} contains itself; a schema can't express that")
    if cls not in _classes:
        _classes[cls] = _build(cls, building | {cls})
    return _classes[cls]


def _build(cls: type, building: _Building) -> Codec:
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:
        raise SchemaError(
            f"the annotations of {cls.__qualname__} can't be read: {error}; define it and what it "
            "refers to at the top level of a module"
        ) from error
    attributes: list[str] = []
    names: list[str] = []
    inner: list[Codec] = []
    for field in dataclasses.fields(cls):
        try:
            if not field.init:
                raise SchemaError("it is not set by the constructor; write field(init=True)")
            inner.append(_codec(hints[field.name], building))
        except SchemaError as error:
            raise SchemaError(f"{cls.__qualname__}.{field.name}: {error}") from None
        notes = getattr(hints[field.name], "__metadata__", ())
        names.append(next((n.name for n in notes if isinstance(n, Name)), field.name))
        attributes.append(field.name)
    _check_constructor(cls, attributes)
    node: schema.Node
    if not inner:
        node = schema.UNIT
    elif not is_unnamed(cls):
        node = schema.Struct(tuple((name, c.node) for name, c in zip(names, inner)))
    elif len(inner) == 1:
        node = inner[0].node
    else:
        node = schema.TupleOf(tuple(c.node for c in inner))
    encode, decode = _field_codecs(cls, attributes, inner)
    hashable = cls.__hash__ is not None and all(c.hashable for c in inner)
    return Codec(node, encode, decode, sum(c.least for c in inner), hashable)


def _check_constructor(cls: type, attributes: list[str]) -> None:
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.name not in attributes and parameter.default is inspect.Parameter.empty:
            raise SchemaError(
                f"the constructor of {cls.__qualname__} needs {parameter.name!r}, which is no field"
            )


def is_unnamed(cls: type) -> bool:
    """Whether this very class was marked with `unnamed`."""
    return "__orchestrator_unnamed__" in cls.__dict__


def _field_codecs(
    cls: type, attributes: list[str], inner: list[Codec]
) -> tuple[codec.Encode, codec.Decode]:
    puts = [(name, c.encode) for name, c in zip(attributes, inner)]
    takes = [(name, c.decode) for name, c in zip(attributes, inner)]
    kinds = inspect.signature(cls).parameters.values()
    by_name = [p.name for p in kinds if p.kind is not p.POSITIONAL_OR_KEYWORD] != []

    def encode(value: Any, out: bytearray) -> None:
        if not isinstance(value, cls):
            raise EncodeError(f"a {type(value).__name__} is no {cls.__name__}")
        name = ""
        try:
            for name, put in puts:
                put(getattr(value, name), out)
        except EncodeError as error:
            raise error.within(name) from None

    def decode(data: bytes, at: int) -> tuple[Any, int]:
        values: list[Any] = []
        name = ""
        try:
            for name, take in takes:
                value, at = take(data, at)
                values.append(value)
        except DecodeError as error:
            raise error.within(name) from None
        try:
            return cls(**dict(zip(attributes, values))) if by_name else cls(*values), at
        except Exception as error:
            # What `__post_init__` refuses.
            raise DecodeError(f"{cls.__name__} refuses the values: {error}") from error

    return encode, decode


# Enums


def _plain_enum(cls: Any) -> Codec:
    if issubclass(cls, enum.Flag):
        raise SchemaError(f"{cls.__qualname__} is a Flag; send it as a UInt32 or the like")
    members = list(cls)
    if not members:
        raise SchemaError(f"{cls.__qualname__} has no members")
    texts = [m.value if isinstance(m.value, str) else m.name for m in members]
    node = schema.Enum(tuple(schema.Variant(text, None) for text in texts))
    numbers = {member: number for number, member in enumerate(members)}

    def encode(value: Any, out: bytearray) -> None:
        if not isinstance(value, cls):
            raise EncodeError(f"a {type(value).__name__} is no {cls.__name__}")
        codec.put_varint(numbers[value], out)

    def decode(data: bytes, at: int) -> tuple[Any, int]:
        number, at = codec.take_variant(data, at)
        if number >= len(members):
            raise DecodeError(f"{cls.__name__} has no variant number {number}")
        return members[number], at

    return Codec(node, encode, decode, 1, True)


def _union(args: Sequence[Any], building: _Building) -> Codec:
    some = [arg for arg in args if arg is not type(None)]
    inner = _codec(some[0], building) if len(some) == 1 else _choice(some, building)
    return codec.option(inner) if len(some) < len(args) else inner


def _choice(classes: Sequence[Any], building: _Building) -> Codec:
    for cls in classes:
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            shown = getattr(cls, "__name__", None) or str(cls)
            raise SchemaError(
                f"a Union is one of several dataclasses, and {shown} is none; wrap it in one"
            )
    inner = [_dataclass(cls, building) for cls in classes]
    node = schema.Enum(tuple(_variant(cls, c) for cls, c in zip(classes, inner)))
    puts = {cls: (n, c.encode) for n, (cls, c) in enumerate(zip(classes, inner))}
    takes = [c.decode for c in inner]
    names = " or ".join([cls.__name__ for cls in classes])

    def encode(value: Any, out: bytearray) -> None:
        found = puts.get(type(value))
        if found is None:
            raise EncodeError(f"a {type(value).__name__} is no {names}")
        codec.put_varint(found[0], out)
        found[1](value, out)

    def decode(data: bytes, at: int) -> tuple[Any, int]:
        number, at = codec.take_variant(data, at)
        if number >= len(takes):
            raise DecodeError(f"there is no variant number {number} among {names}")
        return takes[number](data, at)

    least = 1 + min(c.least for c in inner)
    return Codec(node, encode, decode, least, all(c.hashable for c in inner))


def _variant(cls: type, inner: Codec) -> schema.Variant:
    name: str = cls.__dict__.get("__orchestrator_variant__", cls.__name__)
    node = inner.node
    if not dataclasses.fields(cls):
        return schema.Variant(name, None)
    if is_unnamed(cls) and len(dataclasses.fields(cls)) == 1:
        return schema.Variant(name, node, is_newtype=True)
    if isinstance(node, schema.TupleOf):
        return schema.Variant(name, schema.Several(node.elements))
    if not isinstance(node, schema.Struct):
        raise SchemaError(f"{cls.__qualname__} can't be a variant")
    return schema.Variant(name, node)
