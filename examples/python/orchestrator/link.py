"""The writing half of the connection, and what is declared on it. It outlives each single
connection.

One lock guards all of it. Nobody does anything under it that could wait: what the kernel does not
take at once is left to the connection's thread.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import weakref
from collections.abc import Sequence
from typing import Optional, Union

from .arrivals import Arrivals
from .bell import Bell
from .call_frames import Calls
from .calls import CLOSED, NO_ANSWER, CallEnds, Hand, failed
from .calls import Declared as DeclaredCalls
from .control import RuntimeRequest
from .ends import Declared, End, InputEnd, OutputEnd
from .errors import (
    Closed,
    DeclareError,
    Disconnected,
    ProtocolError,
    Stopped,
)
from .frames import (
    INPUT,
    MAX_CHANNELS,
    OUTPUT,
    Acknowledge,
    Declare,
    DeclareFrame,
    From,
    Grant,
    Keep,
    ReadyFrame,
    Recognise,
    Report,
    Stamps,
    Takes,
    encode_frame,
)
from .questions import Question, Questions
from .schema import Schema
from .writing import MAX_PENDING, Writing


class Link:
    """What handles and the connection's thread share; see the module. Methods whose name begins
    with `locked_` are called with `lock` held."""

    def __init__(self, path: str, instance: bytes) -> None:
        self.path = path
        self.instance = instance
        self.lock = threading.Lock()
        self.progress = Bell(self.lock)
        """Rings when something was written, granted or answered, and when a connection begins or
        ends."""
        self.connection = 0
        """Counts connections, so that nothing meant for an earlier one is written to a later."""
        self.writing = Writing()
        self.calls = CallEnds()
        self.is_closed = False
        self.closed_because = "the runtime was closed"
        self.is_stopping = False
        self.acknowledging = False
        """Whether some input has something to acknowledge, and the thread knows."""
        self._epoch = secrets.randbits(64)
        """Under which this process numbers its messages."""
        self._declared: list[Declared] = []
        self._is_ready = False
        self.questions = Questions()
        self._wake, self.woken = socket.socketpair()
        for end in (self._wake, self.woken):
            end.setblocking(False)
        _links.add(self)

    # The thread

    def rouse(self) -> None:
        """Has the thread look again. May be called from anywhere, also from a signal's handler."""
        try:
            self._wake.send(b"\0")
        except OSError:
            # Full: it is about to look. Closed: nobody looks any more.
            pass

    def locked_check(self) -> None:
        """Raises if there is no use in waiting."""
        self.locked_check_open()
        if self.is_stopping:
            raise Stopped("the program was asked to stop")

    def locked_ring_all(self) -> None:
        """Wakes everybody."""
        self.progress.ring()
        for declared in self._declared:
            if isinstance(declared.end, InputEnd):
                declared.end.arrived.ring()
        self.calls.ring()

    def dispose(self) -> None:
        """The thread has ended: nobody is to wait for it."""
        with self.lock:
            self.is_closed = True
            self.locked_ring_all()
        self._wake.close()
        self.woken.close()

    def forsake(self) -> None:
        """In a child after a fork: the connection is the parent's, and here is no thread. The lock
        may have been held by one."""
        self.lock = threading.Lock()
        self.progress = Bell(self.lock)
        for declared in self._declared:
            if isinstance(declared.end, InputEnd):
                declared.end.arrived = Bell(self.lock)
        self.calls.forsake(self.lock)
        self.is_closed = True
        self.closed_because = "the runtime belongs to the parent process; connect after the fork"
        self.writing.forsake()
        for end in (self._wake, self.woken):
            end.close()

    # Connections

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self.writing.is_open

    def attach(self, connected: socket.socket, instance: bytes) -> None:
        """Begins a new connection: declares everything again. What has to be sent again follows
        when the daemon has said how much it takes."""
        with self.lock:
            self.instance = instance
            self.writing.begin(connected)
            self.connection += 1
            for channel in range(len(self._declared)):
                self._declare(channel)
            for channel in self.calls.channels():
                self.writing.push(encode_frame(self.calls.declaration(channel)))
            if self._is_ready:
                # The daemon before may have died before it took note.
                self.writing.push(encode_frame(ReadyFrame()))
            self.locked_flush()

    def detach(self, reason: str) -> None:
        """Ends the connection: whoever waits for it learns of it."""
        with self.lock:
            self.writing.end(reason)
            self.questions.detach(reason)
            self.calls.detach()
            self.progress.ring()

    def disconnected(self) -> Disconnected:
        """That there is no connection, and why."""
        reason = self.writing.last_error or "the connection was lost"
        return Disconnected(f"not connected to the daemon: {reason}; it is tried again")

    # Declaring

    def declare(
        self,
        name: str,
        schema: Schema,
        window: Optional[int],
        also: Sequence[Schema] = (),
        stamped: bool = False,
    ) -> int:
        """Declares a type, on this connection and on all that follow; as output without a
        window. It may have other forms too. The answer is its channel."""
        end: End
        if window is None:
            end = OutputEnd(stamped, also)
        else:
            end = InputEnd(window, also, self.lock)
        with self.lock:
            self.locked_check()
            self._check_free(name, window is not None)
            channel = len(self._declared)
            self._declared.append(Declared(name, schema, end))
            if self.writing.is_open:
                self._declare(channel)
                self.locked_flush()
        return channel

    def declare_calls(self, declared: DeclaredCalls) -> int:
        """Declares an end of calls, likewise."""
        with self.lock:
            self.locked_check()
            self._check_free(declared.name, declared.end.at_once > 0)
            channel = self.calls.add(declared)
            if self.writing.is_open:
                self.writing.push(encode_frame(self.calls.declaration(channel)))
                self.locked_flush()
        return channel

    def _check_free(self, name: str, is_inwards: bool) -> None:
        """Raises unless a type can be declared in this direction."""
        for other in self._declared:
            if other.name == name and isinstance(other.end, InputEnd) == is_inwards:
                way = "input" if is_inwards else "output"
                raise DeclareError(f"{name!r} is an {way} already; share the first one")
        if self.calls.has(name, is_inwards):
            way = "service" if is_inwards else "client"
            raise DeclareError(f"{name!r} is a {way} already; share the first one")
        if len(self._declared) + len(self.calls) >= MAX_CHANNELS:
            raise DeclareError(f"more than {MAX_CHANNELS} outputs, inputs, clients and services")

    def _declare(self, channel: int) -> None:
        declared = self._declared[channel]
        before: Union[Keep, Recognise]
        after: list[Union[From, Report]] = []
        if isinstance(declared.end, OutputEnd):
            first, again = declared.end.begin()
            before = Keep(channel, self._epoch, first, again)
            direction, window = OUTPUT, 0
            after = [Report(channel)]
            if declared.end.stamped:
                self.writing.push(encode_frame(Stamps(channel, stamped=True)))
        else:
            arrivals = declared.end.arrivals
            granted = arrivals.begin()
            if granted is None:
                return
            self.writing.push(encode_frame(Stamps(channel, stamped=True)))
            before = Recognise(channel)
            direction, window = INPUT, granted
            after = [From(channel, *place, kept=False) for place in arrivals.places()]
        for form in declared.end.also:
            self.writing.push(encode_frame(Takes(channel, form.canonical, form.hash)))
        schema = declared.schema
        declare = Declare(channel, direction, declared.name, schema.canonical, schema.hash, window)
        for frame in (before, DeclareFrame(declare), *after):
            self.writing.push(encode_frame(frame))

    def end(self, channel: int) -> Optional[End]:
        """Our end of a channel."""
        return self._declared[channel].end if channel < len(self._declared) else None

    # Writing

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait for the kernel."""
        return self.writing.is_open and not self.writing.is_idle

    def locked_is_unsent(self) -> bool:
        """Whether something waits for the kernel, or must be sent again."""
        ends = (declared.end for declared in self._declared)
        return not self.writing.is_idle or any(
            isinstance(end, OutputEnd) and end.kept.is_behind() for end in ends
        )

    def locked_flush(self) -> None:
        """Writes what the kernel takes now."""
        self.writing.flush()
        self._send_again()
        if not self.writing.is_open or not self.writing.is_idle:
            self.rouse()
        self.progress.ring()

    def locked_offer(self, end: OutputEnd, frames: Sequence[bytes], since: int) -> int:
        """How many of these messages, the first ones, are taken now. Raises `Disconnected` if
        waiting for more is of no use: see `Kept.waits`."""
        self.locked_check_open()
        kept = end.kept
        # Each message comes by here, so nothing is asked of `writing` that can be seen.
        writing = self.writing
        if not kept.waits() and (writing.socket is None or self.connection != since):
            raise self.disconnected()
        if writing.socket is None or len(writing.pending) >= MAX_PENDING:
            return 0
        count = kept.take(frames)
        has_copies = kept.waits()
        if count > 0:
            idle = not writing.pending
            writing.write(frames[0] if count == 1 else b"".join(frames[:count]))
            # Else the thread knows already that there is something to write.
            if idle and (writing.pending or writing.socket is None):
                self.rouse()
        # What was kept will be sent, on the next connection if not on this one.
        if writing.socket is None and not has_copies:
            raise self.disconnected()
        return count

    def locked_check_open(self) -> None:
        """Raises if the runtime was closed."""
        if self.is_closed:
            raise Closed(self.closed_because)

    def _send_again(self) -> None:
        for declared in self._declared:
            if not isinstance(declared.end, OutputEnd):
                continue
            while self.writing.is_open and not self.writing.is_full:
                frames = declared.end.kept.again(MAX_PENDING)
                if not frames:
                    break
                self.writing.write(b"".join(frames))

    # What is declared

    def output(self, channel: int, what: str) -> OutputEnd:
        """The output on a channel. Raises `ProtocolError` if it is none."""
        end = self.end(channel)
        if not isinstance(end, OutputEnd):
            raise ProtocolError(f"{what} for {channel}, which is no output")
        return end

    def input(self, channel: int) -> InputEnd:
        """The input on a channel. Raises `ProtocolError` if it is none."""
        end = self.end(channel)
        if not isinstance(end, InputEnd):
            raise ProtocolError(f"something for {channel}, which is no input")
        return end

    # What the daemon is told

    def locked_tell(self, channel: int, arrivals: Arrivals) -> None:
        """Grants and acknowledges, now or soon, if there is a reason to."""
        if not self.writing.is_open:
            return
        due = arrivals.due()
        if due is not None:
            if due.acknowledge is not None:
                self.writing.push(encode_frame(Acknowledge(channel, due.acknowledge)))
            self.writing.push(encode_frame(Grant(channel, due.grant)))
            self.locked_flush()
        elif not self.acknowledging and arrivals.is_behind():
            self.acknowledging = True
            self.rouse()

    def locked_acknowledge(self) -> None:
        """Acknowledges what there is to acknowledge, on all inputs."""
        self.acknowledging = False
        if not self.writing.is_open:
            return
        for channel, declared in enumerate(self._declared):
            if isinstance(declared.end, InputEnd):
                total = declared.end.arrivals.acknowledge()
                if total is not None:
                    self.writing.push(encode_frame(Acknowledge(channel, total)))
        self.locked_flush()

    def say_ready(self) -> None:
        """Says that the program is ready, on this connection and on all that follow."""
        with self.lock:
            self.locked_check_open()
            if not self._is_ready:
                self._is_ready = True
                if self.writing.is_open:
                    self.writing.push(encode_frame(ReadyFrame()))
                    self.locked_flush()

    # Requests and calls

    def locked_ask(self, request: RuntimeRequest) -> Question:
        """Sends a request; `progress` rings when the question has an answer or an error."""
        self.locked_check_open()
        if not self.writing.is_open:
            raise self.disconnected()
        question, frame = self.questions.ask(request)
        self.writing.push(frame)
        self.locked_flush()
        return question

    def locked_say(self, frame: bytes, connection: int) -> bool:
        """Says something that has a meaning on this connection only. False if that is gone."""
        if not self.writing.is_open or self.connection != connection:
            return False
        self.writing.push(frame)
        self.locked_flush()
        return True

    def locked_answer(self, hand: Hand, answer: Calls) -> bool:
        """Answers a call, unless that is done. False if whoever waits for it is gone."""
        if hand.is_answered:
            return True
        hand.is_answered = True
        self.calls.end_of(hand).answered(hand)
        return self.locked_say(encode_frame(answer), hand.connection)

    def locked_answer_left(self) -> None:
        """Says that there are no answers, where nobody is left who could give them."""
        left = self.calls.left
        while left:
            it = left.popleft()
            hands, why = ([it], NO_ANSWER) if isinstance(it, Hand) else (it.close(), CLOSED)
            for hand in hands:
                self.locked_answer(hand, failed(hand.channel, hand.id, why))


_links: "weakref.WeakSet[Link]" = weakref.WeakSet()


def _forsake_all() -> None:
    for link in list(_links):
        link.forsake()


os.register_at_fork(after_in_child=_forsake_all)
