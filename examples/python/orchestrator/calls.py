"""The ends of calls of a runtime, over all its connections: what is under way at clients, and what
services have in hand. All of it is guarded by the link's lock."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Optional, Union

from .bell import Bell
from .call_errors import CallError, CallInterrupted, error_of
from .call_frames import (
    Answer,
    CallEnd,
    CallFailed,
    CallFrame,
    CallReply,
    Calls,
    Cancel,
    DeclareCalls,
    DeclareCallsFrame,
    FailedFailure,
    OfCalls,
)
from .errors import ProtocolError
from .frames import MAX_CHANNELS

CLOSED = "the program answers no more calls of this type"
NO_ANSWER = "it gave no answer"


class Asked:
    """A call of a client that is under way."""

    def __init__(self, id: int, connection: int, answered: Bell) -> None:
        self.id, self.connection, self.answered = id, connection, answered
        self.outcome: Union[None, bytes, CallError] = None
        """The payload of the reply, or why there is none, once that is known."""


class ClientEnd:
    """Calls of one type that leave this program."""

    kind = CallEnd.CLIENT
    at_once = 0

    def __init__(self) -> None:
        self.waiting: dict[int, Asked] = {}
        self._last_id = 0

    def ask(self, connection: int, answered: Bell) -> Asked:
        """Enters a call."""
        self._last_id += 1
        asked = self.waiting[self._last_id] = Asked(self._last_id, connection, answered)
        return asked

    def answered(self, answer: Answer) -> None:
        """The daemon has answered a call."""
        asked = self.waiting.pop(answer.id, None)
        if asked is None:
            # It was cancelled, and the answer was on its way.
            return
        if isinstance(answer.answer, CallReply):
            asked.outcome = answer.answer.payload
        else:
            asked.outcome = error_of(answer.answer.failure)
        asked.answered.ring()

    def detach(self) -> None:
        """The connection is gone: nobody will answer what is under way."""
        for asked in self.waiting.values():
            asked.outcome = CallInterrupted(
                "the connection to the daemon broke; whether the service did anything is unknown"
            )
            asked.answered.ring()
        self.waiting.clear()

    def ring(self) -> None:
        """Wakes all who wait."""
        for asked in self.waiting.values():
            asked.answered.ring()

    def forsake(self, _lock: threading.Lock) -> None:
        """In a child after a fork: the calls are the parent's."""
        self.waiting.clear()


class Hand:
    """A call that a service has been given and has not answered."""

    def __init__(self, frame: CallFrame, connection: int, lock: threading.Lock) -> None:
        self.channel, self.id, self.payload = frame.channel, frame.id, frame.payload
        self.connection = connection
        self.deadline = time.monotonic() + frame.timeout_ms / 1000
        self.is_cancelled = False
        self.is_answered = False
        self.cancelled = Bell(lock)
        """Rings when nobody waits for the answer any more."""

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self.is_cancelled = True
        self.cancelled.ring()


class ServiceEnd:
    """Calls of one type that arrive at this program."""

    kind = CallEnd.SERVICE

    def __init__(self, at_once: int, lock: threading.Lock) -> None:
        self.at_once = at_once
        self.arrived = Bell(lock)
        self.is_closed = False
        self._hands: deque[Hand] = deque()
        """Those that nobody has taken yet; they are in `_given` too."""
        self._given: dict[int, Hand] = {}

    def give(self, frame: CallFrame, connection: int) -> bool:
        """A call has come. False if it is to be refused. Raises `ProtocolError` if it is more than
        this service takes."""
        if self.is_closed:
            return False
        if len(self._given) >= self.at_once:
            raise ProtocolError("more calls than the service takes")
        hand = Hand(frame, connection, self.arrived.lock)
        self._given[hand.id] = hand
        self._hands.append(hand)
        self.arrived.ring()
        return True

    def cancel(self, id: int) -> None:
        """Nobody waits for this answer any more."""
        hand = self._given.get(id)
        if hand is not None:
            hand.cancel()

    def take(self) -> Optional[Hand]:
        """The next call, if there is one."""
        return self._hands.popleft() if self._hands else None

    def answered(self, hand: Hand) -> None:
        """Its place is free. Nothing, if it came over an earlier connection."""
        if self._given.get(hand.id) is hand:
            del self._given[hand.id]

    def close(self) -> list[Hand]:
        """Takes no more calls; the answer is those that nobody has taken."""
        self.is_closed = True
        left = list(self._hands)
        self._hands.clear()
        self.arrived.ring()
        return left

    def detach(self) -> None:
        """The connection is gone, and with it whoever waits for answers."""
        self._hands.clear()
        for hand in self._given.values():
            hand.cancel()
        self._given.clear()

    def ring(self) -> None:
        """Wakes all who wait."""
        self.arrived.ring()
        for hand in self._given.values():
            hand.cancelled.ring()

    def forsake(self, lock: threading.Lock) -> None:
        """In a child after a fork: the calls are the parent's."""
        self.arrived = Bell(lock)
        self._hands.clear()
        for hand in self._given.values():
            hand.cancelled = Bell(lock)
            hand.is_cancelled = True
        self._given.clear()


End = Union[ClientEnd, ServiceEnd]


class Declared:
    """An end of calls, and what it is declared as."""

    def __init__(self, name: str, request: bytes, reply: bytes, end: End) -> None:
        self.name, self.request, self.reply, self.end = name, request, reply, end


class CallEnds:
    """All of them. Their channels are counted from the last one down, those of messages from the
    first one up."""

    def __init__(self) -> None:
        self._declared: list[Declared] = []
        self.left: deque[Union[Hand, ServiceEnd]] = deque()
        """What the garbage collector has found, in whatever thread, with or without the lock: the
        connection's thread answers it."""

    def __len__(self) -> int:
        return len(self._declared)

    def has(self, name: str, is_service: bool) -> bool:
        """Whether this is the name of a client, or of a service."""
        return any(
            other.name == name and isinstance(other.end, ServiceEnd) == is_service
            for other in self._declared
        )

    def add(self, declared: Declared) -> int:
        """Enters an end; the answer is its channel."""
        self._declared.append(declared)
        return MAX_CHANNELS - len(self._declared)

    def declaration(self, channel: int) -> Calls:
        """The frame that declares an end."""
        it = self._declared[MAX_CHANNELS - 1 - channel]
        declare = DeclareCalls(channel, it.end.kind, it.name, it.request, it.reply, it.end.at_once)
        return Calls(DeclareCallsFrame(declare))

    def channels(self) -> Iterator[int]:
        """The channels of all."""
        return (MAX_CHANNELS - 1 - index for index in range(len(self._declared)))

    def detach(self) -> None:
        """The connection is gone."""
        for declared in self._declared:
            declared.end.detach()

    def ring(self) -> None:
        """Wakes everybody."""
        for declared in self._declared:
            declared.end.ring()

    def forsake(self, lock: threading.Lock) -> None:
        """In a child after a fork."""
        for declared in self._declared:
            declared.end.forsake(lock)

    def handle(self, frame: OfCalls, connection: int) -> Optional[Calls]:
        """Takes what the daemon says of calls; what is to be said at once. Raises `ProtocolError`
        if the connection has to end."""
        if isinstance(frame, CallFrame):
            if self._service(frame.channel, "a call").give(frame, connection):
                return None
            return failed(frame.channel, frame.id, CLOSED)
        if isinstance(frame, Cancel):
            self._service(frame.channel, "a cancel").cancel(frame.id)
            return None
        if isinstance(frame, Answer):
            end = self._end(frame.channel)
            if not isinstance(end, ClientEnd):
                raise ProtocolError(f"an answer on {frame.channel}, which is no client")
            end.answered(frame)
            return None
        raise ProtocolError("a declaration is not for instances")

    def _service(self, channel: int, what: str) -> ServiceEnd:
        end = self._end(channel)
        if not isinstance(end, ServiceEnd):
            raise ProtocolError(f"{what} on {channel}, which is no service")
        return end

    def _end(self, channel: int) -> Optional[End]:
        index = MAX_CHANNELS - 1 - channel
        return self._declared[index].end if 0 <= index < len(self._declared) else None

    def end_of(self, hand: Hand) -> ServiceEnd:
        """The service that has been given a call."""
        return self._service(hand.channel, "a call")


def failed(channel: int, id: int, why: str) -> Calls:
    """The answer that there is no reply, and why."""
    return Calls(Answer(channel, id, CallFailed(FailedFailure(why))))
