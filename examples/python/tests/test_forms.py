"""Inputs that take several forms of a type, behind a daemon that the test plays."""

from dataclasses import dataclass
from typing import Any
from unittest import mock

from played import SOON_S, Peer, Played

from orchestrator import (
    DeclareError,
    DecodeError,
    Float64,
    Runtime,
    SchemaError,
    UInt8,
    UInt16,
    UInt32,
    connection,
    message,
    schema_of,
    unnamed,
)
from orchestrator.frames import (
    INPUT,
    DeclareFrame,
    FormFrame,
    From,
    Message,
    Recognise,
    Sender,
    Takes,
    encode_frame,
)


@message("mass")
@unnamed
@dataclass
class InGrams:
    grams: UInt32


@message("mass")
@dataclass
class InPounds:
    pounds: UInt8


def of_pounds(old: InPounds) -> "Mass":
    if old.pounds == 13:
        raise ValueError("unlucky")
    return Mass(old.pounds * 453.5)


@message("mass", reads={InGrams: lambda old: Mass(float(old.grams)), InPounds: of_pounds})
@dataclass
class Mass:
    grams: Float64


class Declaring(Played):
    def declared(self, peer: Peer) -> None:
        peer.takes_stamps()
        for form in (InGrams, InPounds):
            takes = peer.expect(Takes)
            schema = schema_of(form)
            self.assertEqual(takes, Takes(0, schema.canonical, schema.hash))
        peer.expect(Recognise)
        declare = peer.expect(DeclareFrame).declare
        self.assertEqual((declare.direction, declare.name), (INPUT, "mass"))
        self.assertEqual(declare.schema, schema_of(Mass).canonical)

    def begun(self) -> "tuple[Runtime, Peer, Any]":
        runtime, peer = self.begin()
        source = runtime.input(Mass)
        self.declared(peer)
        return runtime, peer, source

    def test_each_message_is_read_in_its_form(self) -> None:
        _, peer, source = self.begun()
        grams = bytes.fromhex("000000000000f83f")
        peer.send(Message(0, grams), FormFrame(0, 2), Message(0, b"\2"), Message(0, b"\4"))
        peer.send(FormFrame(0, 1), FormFrame(0, 1), Message(0, b"\x07"), FormFrame(0, 0))
        peer.send(Message(0, grams))
        self.assertEqual([source.receive(SOON_S).grams for _ in range(5)], [1.5, 907, 1814, 7, 1.5])

    def test_a_new_connection_begins_with_the_first_form(self) -> None:
        _, peer, source = self.begun()
        peer.send(FormFrame(0, 1), Message(0, b"\1"), Message(0, b"\2"))
        self.assertEqual(source.receive(SOON_S).grams, 1)
        peer.close()
        peer = self.again()
        self.declared(peer)
        peer.send(Message(0, bytes(8)))
        # What had come before is still of the form that it had then.
        self.assertEqual([source.receive(SOON_S).grams for _ in range(2)], [2, 0])

    def test_what_can_t_be_read_costs_that_message(self) -> None:
        _, peer, source = self.begun()
        sender = Sender(1, bytes(16), False)
        peer.send(From(0, sender, 0, False), FormFrame(0, 2), Message(0, b"\x0d"), Message(0, b""))
        peer.send(Message(0, b"\2\2"), FormFrame(0, 1), Message(0, b"\5"))
        with self.assertRaisesRegex(DecodeError, "mass: no message .* this InPounds: unlucky"):
            source.receive(SOON_S)
        with self.assertRaisesRegex(DecodeError, "mass.pounds: the bytes end"):
            source.receive(SOON_S)
        with self.assertRaisesRegex(DecodeError, "mass: 1 bytes follow"):
            source.receive(SOON_S)
        envelope = source.receive_envelope(SOON_S)
        self.assertEqual((envelope.message, envelope.number), (Mass(5.0), 3))

    @mock.patch.object(connection, "_LAST_PAUSE_S", 0.01)
    def test_a_form_that_was_not_named(self) -> None:
        runtime, peer, source = self.begun()
        for frame in (FormFrame(0, 3), FormFrame(0, 255), FormFrame(1, 0)):
            peer.write(encode_frame(frame))
            peer.ended()
            peer = self.again()
            self.declared(peer)
            self.assertRegex(str(runtime.last_error), "takes none such|which is no input")
        self.assertIsNone(source.try_receive())

    def test_what_is_refused(self) -> None:
        @message("other")
        @dataclass
        class Other:
            value: UInt16

        def reading(*others: type) -> type:
            cls: type = dataclass(type("Reading", (), {"__annotations__": {"value": UInt16}}))
            return message("mass", reads={other: lambda old: None for other in others})(cls)

        runtime, _ = self.begin()
        with self.assertRaisesRegex(DeclareError, "'mass' can't have a form 'other'"):
            runtime.input(reading(Other))
        with self.assertRaisesRegex(SchemaError, "is no message"):
            runtime.input(reading(int))
        with self.assertRaisesRegex(DeclareError, "two forms that have the same schema"):
            runtime.input(reading(reading()))
        many: "list[type]" = []
        for bits in range(16):
            fields = {f"field{bits}": UInt16}
            many.append(message("mass")(dataclass(type("Old", (), {"__annotations__": fields}))))
        with self.assertRaisesRegex(DeclareError, "more than 16 forms"):
            runtime.input(reading(*many))
        runtime.input(reading(*many[:15]))
