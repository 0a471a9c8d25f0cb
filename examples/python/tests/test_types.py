"""From Python types to schemas, and what is refused with a sentence that says what to do."""

import enum
import typing
import unittest
from dataclasses import InitVar, dataclass, field
from typing import Annotated, Any, NewType, Optional, Union

from orchestrator import (
    ByteList,
    Float32,
    Length,
    Name,
    SchemaError,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    message,
    name_of,
    schema_of,
    unnamed,
    variant,
)


@unnamed
@dataclass
class On:
    level: Float32


@dataclass
class Off:
    pass


@unnamed
@dataclass
class Move:
    x: "typing.Annotated[int, UInt16.__metadata__[0]]"
    y: UInt32


@variant("Say")
@dataclass
class SayIt:
    text: str


Metres = NewType("Metres", float)


@dataclass
class Node:
    value: UInt8
    next: "Optional[Node]"


@dataclass
class WithInit:
    value: UInt8
    seed: InitVar[int]


@dataclass
class NotSet:
    value: UInt8 = field(init=False)


@dataclass
class Mutable:
    value: UInt8


class Bits(enum.Flag):
    A = 1


class Nothing(enum.Enum):
    pass


class Level(enum.IntEnum):
    LOW = 5
    HIGH = 9


class Types(unittest.TestCase):
    def canonical(self, tp: Any) -> str:
        return schema_of(tp).canonical.hex()

    def test_each_kind(self) -> None:
        expected: dict[Any, str] = {
            bool: "00",
            float: "0c",
            str: "0e",
            bytes: "0f",
            None: "10",
            Off: "10",
            On: "0b",
            Metres: "0c",
            Move: "13020203",
            SayIt: "150104746578740e",
            ByteList: "1201",
            Level: "1602034c4f570004484947480" + "0",
        }
        for tp, canonical in expected.items():
            with self.subTest(tp):
                self.assertEqual(self.canonical(tp), canonical)
        composed = {
            "110e": Optional[str],
            "1203": list[UInt32],
            "1204": tuple[UInt64, ...],
            "1302010e": tuple[UInt8, str],
            "130101": tuple[UInt8],
            "13030b0b0b": Annotated[list[Float32], Length(3)],
            "1303010101": Annotated[bytes, Length(3)],
            "140e03": dict[str, UInt32],
            "16020" + "34f666600024f6e010b": Union[Off, On],
            "1116020" + "34f666600024f6e010b": Union[Off, On, None],
            "1602044d6f766502020203" + "03536179030104746578740e": Union[Move, SayIt],
        }
        for canonical, tp in composed.items():
            with self.subTest(canonical):
                self.assertEqual(self.canonical(tp), canonical)

    def test_names_of_fields(self) -> None:
        @dataclass
        class Letter:
            sender: Annotated[UInt8, Name("from")]

        self.assertEqual(self.canonical(Letter), "15010466726f6d01")

    def test_what_is_refused(self) -> None:
        refused = {
            "needs a width": int,
            "any can't be part": Any,
            "set.* can't be part": set[str],
            "list can't be part": list,
            "object can't be part": object,
            "Node.next: Node contains itself": Node,
            "'seed', which is no field": WithInit,
            "not set by the constructor": NotSet,
            "have to be hashable": dict[Mutable, str],
            "is a Flag": Bits,
            "has no members": Nothing,
            "int is none; wrap it": Union[Off, int],
            "a list of values without content": list[None],
            "a dict without content": dict[None, None],
            "1 to 4096 elements": Annotated[list[UInt8], Length(0)],
            "belongs to a list": Annotated[str, Length(3)],
            "one of Kind and Length": Annotated[ByteList, Length(3)],
        }
        for problem, tp in refused.items():
            with self.subTest(problem), self.assertRaisesRegex(SchemaError, "(?i)" + problem):
                schema_of(tp)

    def test_a_schema_has_bounds(self) -> None:
        deep: Any = UInt8
        for _ in range(31):
            deep = list[deep]
        schema_of(deep)
        with self.assertRaisesRegex(SchemaError, "levels"):
            schema_of(list[deep])
        with self.assertRaisesRegex(SchemaError, "nodes"):
            schema_of(Annotated[list[UInt8], Length(4096)])
        with self.assertRaisesRegex(SchemaError, "twice"):
            schema_of(Union[Off, variant("Off")(dataclass(type("Other", (), {})))])

    def test_messages_have_names(self) -> None:
        @message("a.b.v1")
        @dataclass
        class Good:
            pass

        class Heir(Good):
            pass

        self.assertEqual(name_of(Good), "a.b.v1")
        for cls in (Heir, Off, int, None):
            with self.assertRaisesRegex(SchemaError, "is no message"):
                name_of(cls)  # type: ignore[arg-type]
        for name in ("", "x" * 256, "ä" * 128, "a\nb", "\x85", "\ud800"):
            with self.assertRaisesRegex(SchemaError, "the name of a message"):
                message(name)
        message("x" * 255)
        with self.assertRaisesRegex(SchemaError, "put @dataclass below"):
            message("a")(object)

    def test_the_order_of_variants_is_that_of_the_union(self) -> None:
        self.assertNotEqual(self.canonical(Union[Off, On]), self.canonical(Union[On, Off]))
