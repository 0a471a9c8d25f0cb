"""Frames: the examples of PROTOCOL.md, and streams of bytes that are none."""

import dataclasses
import re
import typing
import unittest
from typing import Any

import page
from chance import chance

from orchestrator import call_frames, control, frames
from orchestrator.errors import ProtocolError
from orchestrator.frames import (
    PREFIX,
    Grant,
    Message,
    Unframer,
    decode_frame,
    encode_frame,
)
from orchestrator.reflect import is_unnamed

PROBLEM = (
    "result.reply: there is no variant number 99 among StartedReply or StoppedReply or ListReply"
)


class Examples(unittest.TestCase):
    def test_those_of_the_page_are_read_and_written(self) -> None:
        for name, example in page.frames().items():
            # Those of lanes, which this library leaves to others.
            if example[PREFIX] not in frames.NUMBERS.values():
                continue
            with self.subTest(name):
                frame = decode_frame(example[PREFIX:])
                self.assertNotIsInstance(frame, frames.BadReply)
                assert not isinstance(frame, frames.BadReply)
                self.assertEqual(encode_frame(frame), example)

    def test_messages_are_written_and_read_like_all_frames(self) -> None:
        for channel in (0, 127, 128, 1023):
            for length in (0, 1, 127, 128, 20_000):
                payload = bytes(length)
                frame = frames.encode_message(channel, payload)
                self.assertEqual(frame, encode_frame(Message(channel, payload)))
                self.assertEqual(frames.as_message(frame[PREFIX:]), (channel, payload))
        self.assertIsNone(frames.as_message(encode_frame(Grant(0, 1))[PREFIX:]))


class Tables(unittest.TestCase):
    """What is written here of the protocol's types is what the page says."""

    def variants(self, page_name: str, union: Any, renamed: dict[str, str]) -> None:
        classes = typing.get_args(union)
        rows = page.kind(page_name)
        numbers = list(range(len(classes)))
        if page_name == "Frame":
            # Without those of lanes.
            numbers = list(frames.NUMBERS.values())
            rows = [row for row in rows if int(row[0]) in numbers]
        self.assertEqual([row[0] for row in rows], [str(n) for n in numbers])
        for row, cls in zip(rows, classes):
            marked = cls.__dict__.get("__orchestrator_variant__", cls.__name__)
            name = renamed.get(cls.__name__, marked)
            with self.subTest(f"{page_name}::{name}"):
                self.assertEqual(row[1], name)
                fields = [] if is_unnamed(cls) else [f.name for f in dataclasses.fields(cls)]
                told = re.findall(r"(?:^|, )([a-z_]+): ", row[2])
                self.assertEqual([f.replace("id_bytes", "id") for f in fields], told)

    def test_enums_with_content(self) -> None:
        suffixes = {f"{name}Frame": name for name in ("Refused", "Declare", "Ready", "Form")}
        self.variants("Frame", frames.Frame, suffixes)
        self.variants("Observed", control.Observed, {})
        self.variants("Exit", control.Exit, {})
        for suffix in ("Start", "Stop", "List"):
            suffixes[suffix + "Request"] = suffix
        suffixes.update({"StartedReply": "Started", "StoppedReply": "Stopped", "ListReply": "List"})
        self.variants("RuntimeRequest", control.RuntimeRequest, suffixes)
        self.variants("RuntimeReply", control.RuntimeReply, suffixes)

    def test_enums_of_calls(self) -> None:
        self.variants("CallFrame", call_frames.OfCalls, {})
        self.variants("CallFailure", call_frames.CallFailure, {})
        answers = typing.get_type_hints(call_frames.Answer)["answer"]
        self.variants("Answer", answers, {})

    def test_enums_without(self) -> None:
        for cls in (control.Priority, control.Desired, control.Overlap, call_frames.CallEnd):
            rows = page.kind(cls.__name__)
            self.assertEqual([row[1] for row in rows], [member.value for member in cls])

    def test_structs(self) -> None:
        for cls in (
            control.RuntimeInfo,
            control.Schedule,
            control.ScheduleInfo,
            control.LastRun,
            control.Replica,
            control.WireError,
            frames.Declare,
            frames.Sender,
            call_frames.DeclareCalls,
        ):
            told = [row[0].replace("-", "_") for row in page.kind(cls.__name__)]
            ours = [f.name.replace("id_bytes", "id") for f in dataclasses.fields(cls)]
            self.assertEqual(ours, told, cls.__name__)


class Streams(unittest.TestCase):
    def test_frames_are_cut_wherever_reads_end(self) -> None:
        dice = chance("reads")
        bodies = [dice.randbytes(dice.choice([1, 5, 300])) for _ in range(200)]
        stream = b"".join(len(body).to_bytes(4, "little") + body for body in bodies)
        unframer, read, at = Unframer(), [], 0
        while at < len(stream):
            size = dice.choice([1, 3, 4, 100, 1000])
            read += unframer.feed(stream[at : at + size])
            at += size
        self.assertEqual(read, bodies)

    def test_lengths_out_of_bounds_are_seen_at_once(self) -> None:
        for length in (0, frames.MAX_FRAME + 1, 0xFFFFFFFF):
            with self.assertRaisesRegex(ProtocolError, f"a frame of {length} bytes"):
                Unframer().feed(length.to_bytes(4, "little"))
        self.assertEqual(Unframer().feed(frames.MAX_FRAME.to_bytes(4, "little")), [])

    def test_frames_before_a_bad_one_are_there(self) -> None:
        read = []
        with self.assertRaises(ProtocolError):
            for body in Unframer().bodies(b"\1\0\0\0a\0\0\0\0"):
                read.append(body)
        self.assertEqual(read, [b"a"])

    def test_hostile_bodies(self) -> None:
        dice = chance("hostile frames")
        examples = [example[PREFIX:] for example in page.frames().values()]
        for _ in range(10_000):
            body = bytearray(dice.choice(examples))
            for _ in range(dice.randrange(1, 4)):
                body[dice.randrange(len(body))] = dice.choice([0, 1, 13, 14, 0x80, 0xFF])
            if dice.random() < 0.5:
                del body[1 + dice.randrange(len(body)) :]
            try:
                frames.as_message(bytes(body))
                decode_frame(bytes(body))
            except ProtocolError:
                pass

    def test_an_answer_that_can_t_be_read_still_has_its_id(self) -> None:
        reply = decode_frame(bytes([7, 5, 0, 99]))
        self.assertEqual(reply, frames.BadReply(5, PROBLEM))
