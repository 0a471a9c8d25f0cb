"""Calling services."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Any, Generic, Optional, TypeVar

from .bell import Attempt, Bell
from .call_errors import (
    CallError,
    NoAnswer,
    NotConnected,
    ReplyNotDecoded,
    RequestNotEncoded,
    TooManyCalls,
)
from .call_frames import (
    MAX_CALL,
    MAX_CALL_TIMEOUT_MS,
    MAX_CALLS,
    CallFrame,
    Calls,
    Cancel,
    node_of_calls,
)
from .calls import Asked, ClientEnd, Declared
from .codec import Codec
from .errors import DecodeError, EncodeError, TimedOut
from .frames import encode_frame
from .link import Link
from .message import name_of
from .reflect import codec_of
from .schema import Schema

_Req = TypeVar("_Req")
_Rep = TypeVar("_Rep")

DEADLINE_S = 10.0
"""How long a call may take, unless it says otherwise, seconds."""
GRACE_S = 0.25
"""How much later than the deadline the daemon's answer may come, seconds: it knows whether a
service was given the call."""


class Client(Generic[_Req, _Rep]):
    """Where calls of one type leave this program. Made by `Runtime.client`; may be used by several
    threads at once.

    >>> divide = runtime.client(Divide, Quotient)
    >>> divide.call(Divide(7, 2))
    Quotient(value=3, rest=1)
    """

    def __init__(self, link: Link, owner: object, request: type[_Req], reply: Any) -> None:
        self.name = name_of(request)
        """The request's name, by which links know the calls."""
        self._request: Codec = codec_of(request)
        self._reply: Codec = codec_of(reply)
        self._end = ClientEnd()
        self.channel = link.declare_calls(
            declared(self.name, self._request, self._reply, self._end)
        )
        """Its number on the wire."""
        self._link = link
        self._owner = owner

    def call(self, request: _Req, deadline: float = DEADLINE_S) -> _Rep:
        """Calls, and waits for the reply, for `deadline` seconds: at least 1 ms, at most a day.

        One service gets the call, of those to which links lead from this instance: one that is
        connected and has the fewest calls. If none is there, or all have as many as they take at
        once, the call waits for one until its time is over; and so it does for a connection to the
        daemon. A service that has been given the call and goes away ends it at once, and so does
        the end of the daemon: nothing is ever sent twice.

        Raises a `CallError` if there is no reply, whose `may_have_had_effect` tells what is safe to
        repeat; and `Stopped` or `Closed`, like all that waits. A call that is left by an exception,
        such as `KeyboardInterrupt`, is cancelled.
        """
        with self.flight(request, deadline) as flight:
            try:
                self._link.progress.until(flight.asking, flight.left_s(), flight.unsent)
            except TimedOut:
                raise flight.not_connected() from None
            try:
                payload = flight.answered.until(
                    flight.answering, flight.left_s(GRACE_S), flight.unsent
                )
            except TimedOut:
                raise flight.no_answer() from None
        return self.decoded(payload)

    def flight(self, request: _Req, deadline: float) -> "Flight":
        """A call that is about to be made. Raises `RequestNotEncoded`."""
        payload = bytearray()
        try:
            self._request.encode(request, payload)
        except EncodeError as error:
            unencoded = RequestNotEncoded(error.problem)
            unencoded.path = [type(request).__name__, *error.path]
            raise unencoded from None
        if len(payload) > MAX_CALL:
            raise RequestNotEncoded(
                f"the request has {len(payload)} bytes; at most {MAX_CALL} can be sent"
            )
        return Flight(self._link, self._end, self.channel, bytes(payload), deadline)

    def decoded(self, payload: bytes) -> _Rep:
        """The reply in a payload. Raises `ReplyNotDecoded`."""
        try:
            reply: _Rep
            reply, end = self._reply.decode(payload, 0)
            if end != len(payload):
                raise DecodeError(f"{len(payload) - end} bytes follow the end of the value")
        except DecodeError as error:
            raise ReplyNotDecoded(f"the reply can't be decoded: {error}") from None
        return reply

    def __repr__(self) -> str:
        return f"Client({self.name!r})"


class Flight:
    """One call, from when it is made until it is answered. Left before that it is cancelled."""

    unsent = "no answer"

    def __init__(
        self, link: Link, end: ClientEnd, channel: int, payload: bytes, deadline: float
    ) -> None:
        if math.isnan(deadline):
            raise ValueError("a deadline is a number of seconds, and nan is none")
        seconds = min(max(deadline, 0.001), MAX_CALL_TIMEOUT_MS / 1000)
        self._until = time.monotonic() + seconds
        self._link, self._end, self._channel, self._payload = link, end, channel, payload
        self._asked: Optional[Asked] = None
        self.answered = Bell(link.lock)
        """Rings when there is an answer."""
        self.asking: Attempt[bool] = self._ask
        """Sends the call as soon as there is a connection with room. Raises `TooManyCalls`."""
        self.answering: Attempt[bytes] = self._answer
        """The payload of the reply. Raises the `CallError` that came instead."""

    def left_s(self, more: float = 0.0) -> float:
        """How many seconds are left, and so many more."""
        return max(self._until + more - time.monotonic(), 0.0)

    def _ask(self) -> Optional[bool]:
        link = self._link
        link.locked_check()
        if not link.writing.is_open or link.writing.is_full:
            return None
        if len(self._end.waiting) >= MAX_CALLS:
            raise TooManyCalls("too many calls are under way; nothing was sent")
        asked = self._end.ask(link.connection, self.answered)
        self._asked = asked
        timeout_ms = min(max(int(self.left_s() * 1000), 1), MAX_CALL_TIMEOUT_MS)
        frame = CallFrame(self._channel, asked.id, timeout_ms, self._payload)
        link.locked_say(encode_frame(Calls(frame)), link.connection)
        return True

    def _answer(self) -> Optional[bytes]:
        outcome = self._asked.outcome if self._asked is not None else None
        if isinstance(outcome, CallError):
            raise outcome
        if outcome is None:
            self._link.locked_check()
        return outcome

    @staticmethod
    def not_connected() -> NotConnected:
        """That it was not sent."""
        return NotConnected("there was no connection to the daemon in time; nothing was sent")

    @staticmethod
    def no_answer() -> NoAnswer:
        """That the daemon said nothing."""
        return NoAnswer("no answer in time; whether the service did anything is unknown")

    def __enter__(self) -> "Flight":
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        asked, link = self._asked, self._link
        if asked is None or asked.outcome is not None:
            return
        with link.lock:
            if self._end.waiting.pop(asked.id, None) is not None:
                frame = encode_frame(Calls(Cancel(self._channel, asked.id)))
                link.locked_say(frame, asked.connection)


def declared(name: str, request: Codec, reply: Codec, end: Any) -> Declared:
    """An end of calls, to be declared. Raises `SchemaError` if the request and the reply together
    are beyond what a schema may be."""
    Schema(node_of_calls(request.node, reply.node))
    return Declared(name, Schema(request.node).canonical, Schema(reply.node).canonical, end)
