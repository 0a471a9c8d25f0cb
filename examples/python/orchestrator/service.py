"""Answering calls."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Callable, Generic, Optional, TypeVar

from .bell import Attempt
from .call_errors import ReplyNotSent, ServiceFailed
from .call_frames import (
    MAX_CALL,
    MAX_CALLS,
    Answer,
    BadRequestFailure,
    CallFailed,
    CallReply,
    Calls,
    shortened,
)
from .calls import CLOSED, NO_ANSWER, Hand, ServiceEnd, failed
from .client import declared
from .codec import Codec
from .errors import Closed, DecodeError, EncodeError, Stopped, TimedOut
from .link import Link
from .message import name_of
from .reflect import codec_of

_Req = TypeVar("_Req")
_Rep = TypeVar("_Rep")

AT_ONCE = 64
"""How many calls a service may be given at once, unless it says otherwise."""

_log = logging.getLogger("orchestrator")


class Call(Generic[_Req, _Rep]):
    """A call that waits for its answer: a reply, or a failure. If it is forgotten without one, or a
    `with` of it ends so, it has failed.

    >>> for call in runtime.service(Divide, Quotient):
    ...     with call:
    ...         call.reply(Quotient(*divmod(call.request.dividend, call.request.divisor)))
    """

    def __init__(self, link: Link, hand: Hand, request: _Req, reply: Codec) -> None:
        self.request = request
        """What is asked."""
        self.deadline = hand.deadline
        """When its time is over, by `time.monotonic`: nobody waits for the answer after that."""
        self._link, self._hand, self._reply = link, hand, reply

    @property
    def left_s(self) -> float:
        """How many seconds are left until its time is over; at least 0."""
        return max(self.deadline - time.monotonic(), 0.0)

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more: its time is over, its client has cancelled
        it or is gone, its link was removed, or the connection broke."""
        return self._hand.is_cancelled

    @property
    def is_answered(self) -> bool:
        """Whether it has its answer."""
        return self._hand.is_answered

    def wait_cancelled(self, timeout: Optional[float] = None) -> None:
        """Waits until nobody waits for the answer any more, for `timeout` seconds at most or
        without a limit. Raises `TimedOut`, `Stopped` or `Closed` otherwise."""
        self._hand.cancelled.until(self.cancelling, timeout, "it was not cancelled")

    def cancelling(self) -> Optional[bool]:
        """Whether it is cancelled. Raises if there is no use in waiting."""
        if self._hand.is_cancelled:
            return True
        self._link.locked_check()
        return None

    def reply(self, reply: _Rep) -> None:
        """Replies. Waits while 1 MiB waits for the kernel, until the time of the call is over at
        most. A reply for which nobody waits any more is dropped by the daemon.

        Raises `ReplyNotSent` if the connection over which the call came is gone, or there was no
        room in time; `EncodeError` for a value that does not fit its type or has more than 64 MiB:
        then the caller is told that the service failed. A `ValueError` if the call has an
        answer already.
        """
        attempt = self.replying(reply)
        try:
            self._link.progress.until(attempt, self.left_s, "no room for the reply")
        except TimedOut:
            raise self.too_late() from None

    def replying(self, reply: _Rep) -> Attempt[bool]:
        """Sends a reply as soon as there is room for it."""
        link, hand = self._link, self._hand
        self._check_open()
        frame = self._encoded(reply)

        def attempt() -> Optional[bool]:
            self._check_open()
            is_there = link.writing.is_open and link.connection == hand.connection
            if is_there and link.writing.is_full:
                link.locked_check_open()
                return None
            if not link.locked_answer(hand, frame):
                raise ReplyNotSent(
                    "the connection to the daemon broke, and with it went whoever waits for the "
                    "reply"
                )
            return True

        return attempt

    def too_late(self) -> ReplyNotSent:
        """That its time was over before there was room for the reply."""
        self._answer(failed(self._hand.channel, self._hand.id, "its reply did not fit in time"))
        return ReplyNotSent("there was no room for the reply until the time of the call was over")

    def fail(self, why: object) -> None:
        """Says that there is no reply, and why. Of a longer text the first 4,096 bytes are told.
        Never waits. A `ValueError` if the call has an answer already."""
        self._check_open()
        self._answer(failed(self._hand.channel, self._hand.id, shortened(str(why))))

    def refuse(self, why: object) -> None:
        """Says that the request can't be read, or makes no sense, and why: then it has had no
        effect. Otherwise as `fail`."""
        self._check_open()
        answer = CallFailed(BadRequestFailure(shortened(str(why))))
        self._answer(Calls(Answer(self._hand.channel, self._hand.id, answer)))

    def _answer(self, answer: Calls) -> None:
        with self._link.lock:
            self._link.locked_answer(self._hand, answer)

    def _check_open(self) -> None:
        if self._hand.is_answered:
            raise ValueError("the call has an answer already")

    def _encoded(self, reply: _Rep) -> Calls:
        payload = bytearray()
        try:
            self._reply.encode(reply, payload)
            if len(payload) > MAX_CALL:
                raise EncodeError(
                    f"the reply has {len(payload)} bytes; at most {MAX_CALL} can be sent"
                )
        except EncodeError as error:
            self.fail("its reply can't be encoded, or is too long")
            raise error.within(type(reply).__name__) from None
        answer = CallReply(bytes(payload))
        return Calls(Answer(self._hand.channel, self._hand.id, answer))

    def __enter__(self) -> "Call[_Req, _Rep]":
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if not self._hand.is_answered:
            self.fail(NO_ANSWER)

    def __del__(self) -> None:
        hand = getattr(self, "_hand", None)
        if hand is not None and not hand.is_answered:
            # Whoever collects garbage may hold the lock.
            self._link.calls.left.append(hand)
            self._link.rouse()

    def __repr__(self) -> str:
        return f"Call({self.request!r})"


class Service(Generic[_Req, _Rep]):
    """Where calls of one type arrive. Made by `Runtime.service`; may be used by several threads at
    once.

    The daemon gives it no more at once than it takes; the others wait, or go to another service.
    When it is closed or forgotten, calls are answered with a failure.
    """

    def __init__(
        self, link: Link, owner: object, request: type[_Req], reply: Any, at_once: int
    ) -> None:
        if not isinstance(at_once, int) or not 1 <= at_once <= MAX_CALLS:
            raise ValueError(f"a service takes 1 to {MAX_CALLS} calls at once, not {at_once!r}")
        self.name = name_of(request)
        """The request's name, by which links know the calls."""
        self._request: Codec = codec_of(request)
        self._reply: Codec = codec_of(reply)
        self._end = ServiceEnd(at_once, link.lock)
        self.channel = link.declare_calls(
            declared(self.name, self._request, self._reply, self._end)
        )
        """Its number on the wire."""
        self._link = link
        self._owner = owner
        self.in_vain = f"no call of type {self.name}"
        finalizer = weakref.finalize(self, _forgotten, link, self._end)
        finalizer.atexit = False

    @property
    def at_once(self) -> int:
        """How many calls it may be given at once."""
        return self._end.at_once

    def receive(self, timeout: Optional[float] = None) -> Call[_Req, _Rep]:
        """The next call. Waits for it, for `timeout` seconds at most or without a limit; while the
        connection is broken this just waits. What is no request is refused, and passed over.

        Raises `TimedOut`, `Stopped` or `Closed` if none comes.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            call = self.call_of(self._end.arrived.until(self.locked_next, left, self.in_vain))
            if call is not None:
                return call

    def try_receive(self) -> Optional[Call[_Req, _Rep]]:
        """The next call, if one has arrived."""
        while True:
            with self._link.lock:
                hand = self.locked_next()
            if hand is None:
                return None
            call = self.call_of(hand)
            if call is not None:
                return call

    def __iter__(self) -> Iterator[Call[_Req, _Rep]]:
        """The calls, one after the other, until the program was asked to stop or the runtime is
        closed."""
        while True:
            try:
                call = self.receive()
            except (Stopped, Closed):
                return
            yield call
            # Else the one before would not be forgotten while the next one is waited for.
            del call

    def serve(self, function: Callable[[_Req], _Rep], threads: int = 1) -> None:
        """Answers calls, so many at once, until the program was asked to stop or the runtime is
        closed: what the function returns is the reply. What is at work then is finished, and the
        service is closed.

        To say that there is no reply, the function raises `ServiceFailed` with the reason. Any
        other exception is a fault: it is logged by the logger `orchestrator`, its name and text are
        told to the caller, and the service goes on. A call that is not wanted any more when its
        turn comes is passed over.
        """
        if threads < 1:
            raise ValueError(f"a service needs at least one thread, not {threads}")
        others = [
            threading.Thread(target=self._serve, args=(function,), name=f"{self.name} {number}")
            for number in range(1, threads)
        ]
        try:
            for thread in others:
                thread.start()
            self._serve(function)
        finally:
            self.close()
            for thread in others:
                if thread.ident is not None:
                    thread.join()

    def _serve(self, function: Callable[[_Req], _Rep]) -> None:
        for call in self:
            with call:
                if self.is_unwanted(call):
                    continue
                try:
                    call.reply(function(call.request))
                except ReplyNotSent:
                    # The connection is gone, and so is the caller.
                    pass
                except Closed:
                    return
                except Exception as error:
                    self.tell(call, error)

    def is_unwanted(self, call: Call[_Req, _Rep]) -> bool:
        """Whether nobody waits for it any more; then it is answered."""
        if call.is_cancelled or call.left_s <= 0:
            call.fail("cancelled")
            return True
        return False

    def tell(self, call: Call[_Req, _Rep], error: Exception) -> None:
        """Makes an exception the answer to a call."""
        if isinstance(error, ServiceFailed):
            why = error.reason
        else:
            _log.error("a call of %s has failed", self.name, exc_info=error)
            why = f"{type(error).__name__}: {error}"
        if not call.is_answered:
            call.fail(why)

    def close(self) -> None:
        """Takes no more calls, until the program ends: those that nobody has taken, and all that
        still come, are answered with a failure."""
        with self._link.lock:
            for hand in self._end.close():
                self._link.locked_answer(hand, failed(hand.channel, hand.id, CLOSED))

    def locked_next(self) -> Optional[Hand]:
        """The next call, as it came, if there is one. Raises if there is no use in waiting."""
        self._link.locked_check()
        if self._end.is_closed:
            raise Closed(f"the service {self.name} was closed")
        return self._end.take()

    def call_of(self, hand: Hand) -> Optional[Call[_Req, _Rep]]:
        """A call with its request; none if that is none, which is answered."""
        try:
            request, end = self._request.decode(hand.payload, 0)
            if end != len(hand.payload):
                raise DecodeError(f"{len(hand.payload) - end} bytes follow the end of the value")
        except DecodeError as error:
            answer = CallFailed(BadRequestFailure(shortened(str(error))))
            with self._link.lock:
                self._link.locked_answer(hand, Calls(Answer(hand.channel, hand.id, answer)))
            return None
        hand.payload = b""
        return Call(self._link, hand, request, self._reply)

    def __repr__(self) -> str:
        return f"Service({self.name!r})"


def _forgotten(link: Link, end: ServiceEnd) -> None:
    """Without the lock: it may be the garbage collector that calls, in whatever thread."""
    if not end.is_closed:
        link.calls.left.append(end)
        link.rouse()
