"""What crosses an instance's socket: frames, as PROTOCOL.md describes them in section 4.

Messages, of which there are many, are written and read by hand; all other frames are dataclasses
in a `Union`, encoded like everything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import pack_into, unpack_from
from typing import Annotated, Any, Optional, Union, get_args

from . import codec
from .call_frames import Calls
from .control import RuntimeReply, RuntimeRequest, WireError
from .errors import DecodeError, EncodeError, ProtocolError
from .kinds import Length, UInt8, UInt16, UInt32, UInt64, unnamed
from .reflect import codec_of
from .schema import U16, U32

PROTOCOL = 2
"""The version of the protocol that is spoken here."""
MAGIC = b"ORCR"
MAX_FRAME = (64 << 20) + 32
"""The longest body of a frame, bytes."""
MAX_CHANNELS = 1024
"""How many types may be declared on a connection."""
UNLIMITED = 2**64 - 1
"""A grant of this total ends the limit."""
OUTPUT, INPUT = 0, 1
"""The directions of a declaration."""
STAMP = 8
"""Bytes of a stamp: nanoseconds since 1970 (UTC), little-endian."""
PREFIX = 4
"""The bytes before a body, which hold its length."""


@dataclass(frozen=True)
class Hello:
    """Instance to daemon, first."""

    magic: Annotated[bytes, Length(4)]
    protocol: UInt32
    sdk: str


@dataclass(frozen=True)
class Welcome:
    """Daemon to instance, first: the connection is open."""

    protocol: UInt32
    server: str
    instance: bytes


@unnamed
@dataclass(frozen=True)
class RefusedFrame:
    """Daemon to instance, last: why this connection is closed now."""

    error: WireError


@dataclass(frozen=True)
class Declare:
    """Instance to daemon: a channel stands for this type from now on."""

    channel: UInt16
    direction: UInt32
    name: str
    schema: bytes
    hash: Optional[Annotated[bytes, Length(32)]]
    window: UInt32


@unnamed
@dataclass(frozen=True)
class DeclareFrame:
    """Holds a declaration."""

    declare: Declare


@dataclass(frozen=True)
class Message:
    """Either way: one message."""

    channel: UInt16
    payload: bytes


@dataclass(frozen=True)
class Grant:
    """Either way: how many messages in total may have been sent on this connection."""

    channel: UInt16
    total: UInt64


@dataclass(frozen=True)
class Request:
    """Instance to daemon, of privileged instances."""

    id: UInt32
    request: RuntimeRequest


@unnamed
@dataclass(frozen=True)
class Success:
    """The request was carried out."""

    reply: RuntimeReply


@unnamed
@dataclass(frozen=True)
class Failure:
    """The request failed."""

    error: WireError


@dataclass(frozen=True)
class Reply:
    """Daemon to instance: the answer to a request."""

    id: UInt32
    result: Union[Success, Failure]


@dataclass(frozen=True)
class Keep:
    """Instance to daemon, before the declaration of an output whose messages are numbered."""

    channel: UInt16
    epoch: UInt64
    next: UInt64
    again: UInt64


@dataclass(frozen=True)
class Recognise:
    """Instance to daemon, before the declaration of an input that knows numbers."""

    channel: UInt16


@dataclass(frozen=True)
class Acknowledge:
    """Either way: so many messages of this connection are never needed again."""

    channel: UInt16
    total: UInt64


@dataclass(frozen=True)
class Sender:
    """Whose messages are numbered together."""

    epoch: UInt64
    instance: bytes
    anybody: bool


@dataclass(frozen=True)
class From:
    """Either way: whose messages follow, and the number of the next one."""

    channel: UInt16
    sender: Optional[Sender]
    next: UInt64
    kept: bool


@dataclass(frozen=True)
class Skip:
    """Daemon to instance: so many numbers are left out."""

    channel: UInt16
    count: UInt64


@dataclass(frozen=True)
class ReadyFrame:
    """Instance to daemon: it is ready."""


@dataclass(frozen=True)
class Report:
    """Instance to daemon, after the declaration of an output: it wants to be told by `Dropped`."""

    channel: UInt16


@dataclass(frozen=True)
class Dropped:
    """Daemon to instance: so many messages of this connection were dropped since there was no room
    for longer than a block timeout."""

    channel: UInt16
    total: UInt64


@dataclass(frozen=True)
class Takes:
    """Instance to daemon, before the declaration of an input: it takes this form too."""

    channel: UInt16
    schema: bytes
    hash: Optional[Annotated[bytes, Length(32)]]


@dataclass(frozen=True)
class FormFrame:
    """Daemon to instance: the messages that follow on this channel are in this form."""

    channel: UInt16
    form: UInt8


@dataclass(frozen=True)
class Stamps:
    """The time of sending stands behind each payload. Instance to daemon, before a declaration: so it
    is with this output, or this input takes it. Daemon to instance: so it is with what follows."""

    channel: UInt16
    stamped: bool


Frame = Union[
    Hello,
    Welcome,
    RefusedFrame,
    DeclareFrame,
    Message,
    Grant,
    Request,
    Reply,
    Keep,
    Recognise,
    Acknowledge,
    From,
    Skip,
    ReadyFrame,
    Report,
    Dropped,
    Calls,
    Takes,
    FormFrame,
    Stamps,
]

_NOT_OF_LANES = [*range(17), 30, 31, 32]
NUMBERS: dict[type, int] = dict(zip(get_args(Frame), _NOT_OF_LANES))
"""The number of each frame. Those that are left out are of lanes, which this library does not take:
a daemon sends them only to those who say that they do."""
_CLASSES = {number: cls for cls, number in NUMBERS.items()}
_MESSAGE, _REPLY = 4, 7


@dataclass(frozen=True)
class BadReply:
    """A reply whose id could be read, and the rest of it not: one of a newer daemon."""

    id: int
    problem: str


Incoming = Union[Frame, BadReply]


def encode_frame(frame: Frame) -> bytes:
    """A frame with its length before it. Raises `EncodeError` if it is too long."""
    out = bytearray(PREFIX)
    codec.put_varint(NUMBERS[type(frame)], out)
    codec_of(type(frame)).encode(frame, out)
    length = len(out) - PREFIX
    if length > MAX_FRAME:
        raise EncodeError(f"the frame has {length} bytes; at most {MAX_FRAME} can be sent")
    pack_into("<I", out, 0, length)
    return bytes(out)


def encode_message(channel: int, payload: Union[bytes, bytearray]) -> bytes:
    """What `encode_frame` makes of a `Message`, faster. The payload is within its bound."""
    out = bytearray((0, 0, 0, 0, _MESSAGE))
    codec.put_varint(channel, out)
    codec.put_varint(len(payload), out)
    out += payload
    pack_into("<I", out, 0, len(out) - PREFIX)
    return bytes(out)


def decode_frame(body: bytes) -> Incoming:
    """The frame in a body. Raises `ProtocolError` if it is none."""
    try:
        if body[0] == _REPLY:
            return _decode_reply(body)
        number, at = codec.take_variant(body, 0)
        if number not in _CLASSES:
            raise DecodeError(f"there is no variant number {number} that this library takes")
        frame, end = codec_of(_CLASSES[number]).decode(body, at)
    except DecodeError as error:
        raise ProtocolError(f"a frame that can't be decoded: {error}") from None
    if end != len(body):
        raise ProtocolError(f"{len(body) - end} bytes follow the end of a frame")
    known: Frame = frame
    return known


def _decode_reply(body: bytes) -> Incoming:
    id, _ = codec.SCALARS[U32].decode(body, 1)
    try:
        reply, end = codec_of(Reply).decode(body, 1)
    except DecodeError as error:
        return BadReply(id, str(error))
    if end != len(body):
        return BadReply(id, f"{len(body) - end} bytes follow the end")
    known: Reply = reply
    return known


class Unframer:
    """Cuts a stream of bytes into the bodies of frames; holds at most one that is not whole."""

    def __init__(self) -> None:
        self._read = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that are complete now, in their order.

        Raises `ProtocolError` when a length is 0 or above `MAX_FRAME`, as soon as it can be seen:
        where the next frame begins is unknown then. Frames before it are lost with it; see
        `bodies`, which gives them first.
        """
        return list(self.bodies(data))

    def bodies(self, data: bytes) -> Iterator[bytes]:
        """The same, one by one."""
        read = self._read
        read += data
        at, whole = 0, len(read)
        try:
            while whole - at >= PREFIX:
                (length,) = unpack_from("<I", read, at)
                if not 1 <= length <= MAX_FRAME:
                    raise ProtocolError(f"a frame of {length} bytes; 1 to {MAX_FRAME} are allowed")
                end = at + PREFIX + length
                if end > whole:
                    break
                body = bytes(read[at + PREFIX : end])
                at = end
                yield body
        finally:
            del read[:at]


def as_message(body: bytes) -> Optional[tuple[int, bytes]]:
    """The channel and the payload, if this frame is a message; faster than `decode_frame`."""
    if body[0] != _MESSAGE:
        return None
    try:
        channel, at = _take_channel(body, 1)
        length, at = codec.take_length(body, at)
    except DecodeError as error:
        raise ProtocolError(f"a message that can't be decoded: {error}") from None
    if at + length != len(body):
        raise ProtocolError("a message whose payload is not as long as it says")
    return channel, body[at:]


_take_channel: Any = codec.SCALARS[U16].decode
