"""Sending messages."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Generic, Optional, TypeVar

from . import codec
from .bell import Attempt
from .codec import Codec
from .ends import OutputEnd
from .errors import EncodeError
from .forms import offers_of
from .frames import STAMP, encode_message
from .link import Link
from .message import MAX_PAYLOAD, name_of
from .reflect import codec_of
from .schema import Schema

_T = TypeVar("_T")

_BATCH = 64 << 10
"""`send_many` writes whenever it has encoded so many bytes."""


class Output(Generic[_T]):
    """Where messages of one type leave this program. Made by `Runtime.output`; may be used by
    several threads at once.

    >>> speeds = runtime.output(Speed)
    >>> speeds.send(Speed(metres_per_s=1.5))
    """

    def __init__(self, link: Link, owner: object, cls: type[_T], stamped: bool) -> None:
        self.name = name_of(cls)
        """The type's name."""
        self._codec: Codec = codec_of(cls)
        self._offers = offers_of(cls)
        also = [form.schema for form, _ in self._offers]
        schema = Schema(self._codec.node)
        self.channel = link.declare(self.name, schema, None, also, stamped)
        """Its number on the wire."""
        end = link.end(self.channel)
        assert isinstance(end, OutputEnd)
        self._end = end
        self._link = link
        self._owner = owner
        self.in_vain = f"no room for {self.name}"

    @property
    def dropped(self) -> int:
        """How many messages of this output were dropped because a link with a block timeout had no
        room for longer than that, as far as the daemon has told; one that several links dropped
        counts for each. What links drop under other policies is not told, see `link list`."""
        return self._end.dropped

    def send(self, message: _T, timeout: Optional[float] = None) -> None:
        """Sends one message. When it returns, the message is with the kernel, unless the daemon is
        slower than this program; then up to 1 MiB of messages waits here.

        Waits, for `timeout` seconds at most or without a limit, while a link with the policy
        `block` has no room, but no longer than the link's block timeout, if it has one (then see
        `dropped`), and while that 1 MiB is full. Where such a link takes the messages it
        also waits while there is no connection, and what was sent is sent again on the next one if
        it did not arrive.

        Raises `Disconnected`, where no such link takes the messages, while there is no connection;
        `TimedOut`, `Stopped` or `Closed` if the wait ends otherwise; `EncodeError` for a value that
        does not fit its type or has more than 64 MiB. The message is not sent then.
        """
        attempt = self.sending([self.frame(message)])
        self._link.progress.until(attempt, timeout, self.in_vain)

    def try_send(self, message: _T) -> bool:
        """Sends one message if that is possible without waiting: false where `send` would wait,
        and raises what that raises."""
        frame = self.frame(message)
        with self._link.lock:
            return self._link.locked_offer(self._end, [frame], self._link.connection) > 0

    def send_many(self, messages: Iterable[_T], timeout: Optional[float] = None) -> int:
        """Sends many messages, with few system calls: the way for bursts. Returns how many.

        `timeout` is for each part of 64 KiB. Raises what `send` raises; then some, the first ones,
        may have been sent: before one that can't be encoded, all.
        """
        total = 0
        for frames in self.batches(messages):
            self._link.progress.until(self.sending(frames), timeout, self.in_vain)
            total += len(frames)
        return total

    def batches(self, messages: Iterable[_T]) -> Iterator[list[bytes]]:
        """The messages as they go over the wire, 64 KiB at a time. If one of them can't be
        encoded, those before it come first."""
        frames: list[bytes] = []
        size = 0
        try:
            for message in messages:
                frame = self.frame(message)
                frames.append(frame)
                size += len(frame)
                if size >= _BATCH:
                    yield frames
                    frames, size = [], 0
        except EncodeError:
            yield frames
            raise
        yield frames

    def frame(self, message: _T) -> bytes:
        """A message as it goes over the wire. Raises `EncodeError`."""
        payload = bytearray()
        try:
            self._codec.encode(message, payload)
            if self._offers:
                payload = self._parts(message, payload)
        except EncodeError as error:
            raise error.within(type(message).__name__) from None
        if len(payload) > MAX_PAYLOAD:
            raise EncodeError(
                f"the message has {len(payload)} bytes; at most {MAX_PAYLOAD} can be sent"
            )
        if self._end.stamped:
            payload += time.time_ns().to_bytes(STAMP, "little")
        return encode_message(self.channel, payload)

    def _parts(self, message: _T, own: bytearray) -> bytearray:
        """A part for each form of a message."""
        parts = [own]
        for form, make in self._offers:
            part = bytearray()
            form.encode(make(message), part)
            parts.append(part)
        payload = bytearray()
        for part in parts:
            codec.put_varint(len(part), payload)
            payload += part
        return payload

    def sending(self, frames: list[bytes]) -> Attempt[bool]:
        """Takes as many of these messages as may be sent, at each attempt, until all are."""
        link, rest, since = self._link, frames, -1

        def attempt() -> Optional[bool]:
            nonlocal rest, since
            if since < 0:
                since = link.connection
            taken = link.locked_offer(self._end, rest, since)
            if taken == len(rest):
                return True
            rest = rest[taken:]
            link.locked_check()
            return None

        return attempt

    def __repr__(self) -> str:
        return f"Output({self.name!r})"
