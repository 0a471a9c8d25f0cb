"""What a message is made of: a schema, its canonical form, and its hash.

Two programs in different languages mean the same type if its name and these bytes are equal. The
canonical form, its tags and its bounds are those of PROTOCOL.md, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Optional, Union

from .blake3 import blake3
from .errors import SchemaError

MAX_BYTES = 65_536
"""The longest canonical form, bytes."""
MAX_NODES = 4_096
"""The most nodes of a schema; each type and each variant is one."""
MAX_DEPTH = 32
"""The most levels of a schema; a scalar has one."""
MAX_NAME = 255
"""The longest name of a field or of a variant, bytes of UTF-8."""

_NAMES = "bool u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64 char String Bytes ()".split()
_OPTION, _SEQ, _TUPLE, _MAP, _STRUCT, _ENUM = range(17, 23)
_UNIT_BODY, _NEWTYPE_BODY, _TUPLE_BODY, _STRUCT_BODY = range(4)


@dataclass(frozen=True)
class Scalar:
    """A type without parts, by its tag: 0 is bool, 16 is unit."""

    tag: int


BOOL, U8, U16, U32, U64, U128 = map(Scalar, range(6))
I8, I16, I32, I64, I128, F32, F64 = map(Scalar, range(6, 13))
CHAR, STRING, BYTES, UNIT = map(Scalar, range(13, 17))


@dataclass(frozen=True)
class Option:
    """A value or nothing."""

    inner: "Node"


@dataclass(frozen=True)
class Seq:
    """Any number of values."""

    inner: "Node"


@dataclass(frozen=True)
class TupleOf:
    """A fixed number of values, at least one: tuples, and arrays of a fixed length."""

    elements: tuple["Node", ...]


@dataclass(frozen=True)
class Map:
    """Keys and values."""

    key: "Node"
    value: "Node"


@dataclass(frozen=True)
class Struct:
    """Named fields, in their order."""

    fields: tuple[tuple[str, "Node"], ...]


@dataclass(frozen=True)
class Variant:
    """One of the choices of an enum. `body` is nothing, one value, several, or named fields."""

    name: str
    body: Union[None, "Node", "Several", Struct]
    is_newtype: bool = False


@dataclass(frozen=True)
class Several:
    """The unnamed values of a variant, any number but one."""

    elements: tuple["Node", ...]


@dataclass(frozen=True)
class Enum:
    """One of several variants, numbered from 0."""

    variants: tuple[Variant, ...]


Node = Union[Scalar, Option, Seq, TupleOf, Map, Struct, Enum]


@dataclass(frozen=True)
class Schema:
    """A schema within its bounds; `str()` of it is much like the type in Rust.

    >>> Schema(Struct((("value", U32),))).canonical.hex()
    '15010576616c756503'
    """

    root: Node

    def __post_init__(self) -> None:
        _check(self.canonical)

    @property
    def canonical(self) -> bytes:
        """The canonical form, at most `MAX_BYTES`."""
        return _encoded(self.root)

    @property
    def hash(self) -> bytes:
        """BLAKE3 of the canonical form, 32 bytes."""
        return _hashed(self.canonical)

    @staticmethod
    def from_canonical(canonical: bytes) -> "Schema":
        """The schema with this canonical form. Raises `SchemaError` for any other bytes."""
        return Schema(_check(canonical))

    def __str__(self) -> str:
        return _text(self.root, 0)


@lru_cache(maxsize=256)
def _hashed(canonical: bytes) -> bytes:
    return blake3(canonical)


@lru_cache(maxsize=256)
def _encoded(root: Node) -> bytes:
    out = bytearray()
    _write(root, out)
    return bytes(out)


def _count(number: int, out: bytearray) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _write(node: Node, out: bytearray) -> None:
    if isinstance(node, Scalar):
        out.append(node.tag)
    elif isinstance(node, Option):
        out.append(_OPTION)
        _write(node.inner, out)
    elif isinstance(node, Seq):
        out.append(_SEQ)
        _write(node.inner, out)
    elif isinstance(node, TupleOf):
        out.append(_TUPLE)
        _write_all(node.elements, out)
    elif isinstance(node, Map):
        out.append(_MAP)
        _write(node.key, out)
        _write(node.value, out)
    elif isinstance(node, Struct):
        out.append(_STRUCT)
        _write_fields(node, out)
    else:
        out.append(_ENUM)
        _count(len(node.variants), out)
        for variant in node.variants:
            _write_name(variant.name, out)
            _write_body(variant, out)


def _write_body(variant: Variant, out: bytearray) -> None:
    body = variant.body
    if body is None:
        out.append(_UNIT_BODY)
    elif isinstance(body, Several):
        out.append(_TUPLE_BODY)
        _write_all(body.elements, out)
    elif isinstance(body, Struct) and not variant.is_newtype:
        out.append(_STRUCT_BODY)
        _write_fields(body, out)
    else:
        out.append(_NEWTYPE_BODY)
        _write(body, out)


def _write_all(nodes: tuple[Node, ...], out: bytearray) -> None:
    _count(len(nodes), out)
    for node in nodes:
        _write(node, out)


def _write_fields(struct: Struct, out: bytearray) -> None:
    _count(len(struct.fields), out)
    for name, node in struct.fields:
        _write_name(name, out)
        _write(node, out)


def _write_name(name: str, out: bytearray) -> None:
    encoded = name.encode("utf-8", "surrogatepass")
    _count(len(encoded), out)
    out += encoded


def _check(canonical: bytes) -> Node:
    if len(canonical) > MAX_BYTES:
        raise SchemaError(
            f"the schema has {len(canonical)} bytes; at most {MAX_BYTES} are allowed: "
            "shorten its names, or send it as several types"
        )
    reader = _Reader(bytes(canonical))
    root = reader.node(1)
    if reader.at < len(canonical):
        raise SchemaError(f"{len(canonical) - reader.at} bytes follow the end of the schema")
    return root


class _Reader:
    """Reads the canonical form; nothing is made in advance for what it claims to hold."""

    def __init__(self, canonical: bytes) -> None:
        self._bytes = canonical
        self._nodes = 0
        self.at = 0

    def _take(self, count: int) -> bytes:
        taken = self._bytes[self.at : self.at + count]
        if len(taken) < count:
            raise SchemaError("the schema ends in the middle")
        self.at += count
        return taken

    def _number(self) -> int:
        """At most three bytes, since nothing counts beyond `MAX_BYTES`; in its shortest form."""
        number = 0
        for shift in (0, 7, 14):
            byte = self._take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift > 0:
                    break
                return number
        raise SchemaError("a number in the schema is not in its shortest form")

    def _name(self, taken: set[str]) -> str:
        length = self._number()
        try:
            name = self._take(length).decode()
        except UnicodeDecodeError:
            length = 0
            name = ""
        if not 1 <= length <= MAX_NAME:
            raise SchemaError(f"a name in the schema is not 1 to {MAX_NAME} bytes of UTF-8")
        if name in taken:
            raise SchemaError(f"the schema has the name {name!r} twice in one place")
        taken.add(name)
        return name

    def _count_node(self) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise SchemaError(
                f"the schema has more than {MAX_NODES} nodes; use a list instead of a long tuple"
            )

    def node(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise SchemaError(f"the schema has more than {MAX_DEPTH} levels; nest types less")
        self._count_node()
        tag = self._take(1)[0]
        if tag < _OPTION:
            return Scalar(tag)
        below = depth + 1
        if tag == _OPTION:
            return Option(self.node(below))
        if tag == _SEQ:
            return Seq(self.node(below))
        if tag == _TUPLE:
            elements = self._all(below)
            if not elements:
                raise SchemaError("a tuple in the schema has no elements; that is unit")
            return TupleOf(elements)
        if tag == _MAP:
            key = self.node(below)
            return Map(key, self.node(below))
        if tag == _STRUCT:
            return self._struct(below)
        if tag == _ENUM:
            return self._enum(below)
        raise SchemaError(f"the schema has a node of kind {tag}, which does not exist")

    def _all(self, depth: int) -> tuple[Node, ...]:
        return tuple([self.node(depth) for _ in range(self._number())])

    def _struct(self, depth: int) -> Struct:
        fields: list[tuple[str, Node]] = []
        taken: set[str] = set()
        for _ in range(self._number()):
            name = self._name(taken)
            fields.append((name, self.node(depth)))
        return Struct(tuple(fields))

    def _enum(self, depth: int) -> Enum:
        variants: list[Variant] = []
        taken: set[str] = set()
        for _ in range(self._number()):
            self._count_node()
            name = self._name(taken)
            variants.append(self._variant(name, depth))
        return Enum(tuple(variants))

    def _variant(self, name: str, depth: int) -> Variant:
        tag = self._take(1)[0]
        if tag == _UNIT_BODY:
            return Variant(name, None)
        if tag == _NEWTYPE_BODY:
            return Variant(name, self.node(depth), is_newtype=True)
        if tag == _TUPLE_BODY:
            elements = self._all(depth)
            if len(elements) == 1:
                raise SchemaError("a variant in the schema is a tuple of one element")
            return Variant(name, Several(elements))
        if tag == _STRUCT_BODY:
            return Variant(name, self._struct(depth))
        raise SchemaError(f"the schema has a variant of kind {tag}, which does not exist")


def _text(node: Node, indent: int) -> str:
    if isinstance(node, Scalar):
        return _NAMES[node.tag]
    if isinstance(node, Option):
        return f"Option<{_text(node.inner, indent)}>"
    if isinstance(node, Seq):
        return f"Vec<{_text(node.inner, indent)}>"
    if isinstance(node, TupleOf):
        first = node.elements[0]
        if len(node.elements) > 4 and all(element == first for element in node.elements):
            return f"[{_text(first, indent)}; {len(node.elements)}]"
        only = "," if len(node.elements) == 1 else ""
        return _several(node.elements, indent)[:-1] + only + ")"
    if isinstance(node, Map):
        return f"Map<{_text(node.key, indent)}, {_text(node.value, indent)}>"
    if isinstance(node, Struct):
        return "struct " + _braces([f"{n}: {_text(f, indent + 1)}" for n, f in node.fields], indent)
    return "enum " + _braces([_variant_text(v, indent + 1) for v in node.variants], indent)


def _variant_text(variant: Variant, indent: int) -> str:
    body: Optional[Union[Node, Several]] = variant.body
    if body is None:
        return variant.name
    if isinstance(body, Several):
        return variant.name + _several(body.elements, indent)
    if isinstance(body, Struct) and not variant.is_newtype:
        return variant.name + _text(body, indent)[len("struct") :]
    return f"{variant.name}({_text(body, indent)})"


def _several(elements: tuple[Node, ...], indent: int) -> str:
    return "(" + ", ".join([_text(element, indent) for element in elements]) + ")"


def _braces(lines: list[str], indent: int) -> str:
    if not lines:
        return "{}"
    inner = "".join([f"{'    ' * (indent + 1)}{line},\n" for line in lines])
    return "{\n" + inner + "    " * indent + "}"
