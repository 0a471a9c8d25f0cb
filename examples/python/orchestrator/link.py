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
from .control import RuntimeRequest
from .ends import Declared, End, InputEnd, OutputEnd, Question
from .errors import (
    Closed,
    DeclareError,
    Disconnected,
    EncodeError,
    ProtocolError,
    RequestError,
    Stopped,
)
from .frames import (
    INPUT,
    MAGIC,
    MAX_CHANNELS,
    OUTPUT,
    PROTOCOL,
    Acknowledge,
    BadReply,
    Declare,
    DeclareFrame,
    Dropped,
    Failure,
    From,
    Grant,
    Hello,
    Incoming,
    Keep,
    ReadyFrame,
    Recognise,
    RefusedFrame,
    Reply,
    Report,
    Request,
    Skip,
    encode_frame,
)
from .schema import Schema

MAX_PENDING = 1 << 20
"""Bytes that wait for the kernel before senders wait; one more message or batch may come on top."""
MAX_REQUESTS = 16
"""Requests that may wait for their answers: as many as a daemon takes from one connection."""
VERSION = "0.1.0"


def hello() -> bytes:
    """The first frame of a connection."""
    return encode_frame(Hello(MAGIC, PROTOCOL, f"orchestrator-python {VERSION}"))


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
        self.last_error: Optional[str] = None
        self.is_closed = False
        self.closed_because = "the runtime was closed"
        self.is_stopping = False
        self.acknowledging = False
        """Whether some input has something to acknowledge, and the thread knows."""
        self._epoch = secrets.randbits(64)
        """Under which this process numbers its messages."""
        self._socket: Optional[socket.socket] = None
        self._pending = bytearray()
        self._declared: list[Declared] = []
        self._is_ready = False
        self._questions: dict[int, Question] = {}
        self._next_question = 0
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
        self.is_closed = True
        self.closed_because = "the runtime belongs to the parent process; connect after the fork"
        for end in (self._socket, self._wake, self.woken):
            if end is not None:
                end.close()
        self._socket = None

    # Connections

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._socket is not None

    def attach(self, connected: socket.socket, instance: bytes) -> None:
        """Begins a new connection: declares everything again. What has to be sent again follows
        when the daemon has said how much it takes."""
        with self.lock:
            self._socket, self.instance = connected, instance
            self.connection += 1
            self._pending.clear()
            for channel in range(len(self._declared)):
                self._declare(channel)
            if self._is_ready:
                # The daemon before may have died before it took note.
                self._pending += encode_frame(ReadyFrame())
            self.locked_flush()

    def detach(self, reason: str) -> None:
        """Ends the connection: whoever waits for it learns of it."""
        with self.lock:
            self._socket, self.last_error = None, reason
            self._pending.clear()
            for question in self._questions.values():
                question.error = RequestError(
                    0, f"no answer: {reason}; whether it was carried out is unknown", []
                )
            self._questions.clear()
            self.progress.ring()

    def disconnected(self) -> Disconnected:
        """That there is no connection, and why."""
        reason = self.last_error or "the connection was lost"
        return Disconnected(f"not connected to the daemon: {reason}; it is tried again")

    # Declaring

    def declare(self, name: str, schema: Schema, window: Optional[int]) -> int:
        """Declares a type, on this connection and on all that follow; as output without a
        window. The answer is its channel."""
        end: End = OutputEnd() if window is None else InputEnd(window, self.lock)
        with self.lock:
            self.locked_check()
            for other in self._declared:
                if other.name == name and type(other.end) is type(end):
                    way = "output" if window is None else "input"
                    raise DeclareError(f"{name!r} is an {way} already; share the first one")
            channel = len(self._declared)
            if channel >= MAX_CHANNELS:
                raise DeclareError(f"more than {MAX_CHANNELS} outputs and inputs")
            self._declared.append(Declared(name, schema, end))
            if self._socket is not None:
                self._declare(channel)
                self.locked_flush()
        return channel

    def _declare(self, channel: int) -> None:
        declared = self._declared[channel]
        before: Union[Keep, Recognise]
        after: list[Union[From, Report]] = []
        if isinstance(declared.end, OutputEnd):
            first, again = declared.end.begin()
            before = Keep(channel, self._epoch, first, again)
            direction, window = OUTPUT, 0
            after = [Report(channel)]
        else:
            arrivals = declared.end.arrivals
            granted = arrivals.begin()
            if granted is None:
                return
            before = Recognise(channel)
            direction, window = INPUT, granted
            after = [From(channel, *place, kept=False) for place in arrivals.places()]
        schema = declared.schema
        declare = Declare(channel, direction, declared.name, schema.canonical, schema.hash, window)
        for frame in (before, DeclareFrame(declare), *after):
            self._pending += encode_frame(frame)

    def end(self, channel: int) -> Optional[End]:
        """Our end of a channel."""
        return self._declared[channel].end if channel < len(self._declared) else None

    # Writing

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait for the kernel."""
        return self._socket is not None and bool(self._pending)

    def locked_is_unsent(self) -> bool:
        """Whether something waits for the kernel, or must be sent again."""
        ends = (declared.end for declared in self._declared)
        return bool(self._pending) or any(
            isinstance(end, OutputEnd) and end.kept.is_behind() for end in ends
        )

    def locked_flush(self) -> None:
        """Writes what the kernel takes now."""
        self._write_pending()
        self._send_again()
        if self._socket is None or self._pending:
            self.rouse()
        self.progress.ring()

    def locked_offer(self, end: OutputEnd, frames: Sequence[bytes], since: int) -> int:
        """How many of these messages, the first ones, are taken now. Raises `Disconnected` if
        waiting for more is of no use: see `Kept.waits`."""
        self.locked_check_open()
        kept = end.kept
        if not kept.waits() and (self._socket is None or self.connection != since):
            raise self.disconnected()
        if self._socket is None or len(self._pending) >= MAX_PENDING:
            return 0
        count = kept.take(frames)
        has_copies = kept.waits()
        if count > 0:
            idle = not self._pending
            self._write(frames[0] if count == 1 else b"".join(frames[:count]))
            # Else the thread knows already that there is something to write.
            if idle and (self._pending or self._socket is None):
                self.rouse()
        # What was kept will be sent, on the next connection if not on this one.
        if self._socket is None and not has_copies:
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
            while self._socket is not None and len(self._pending) < MAX_PENDING:
                frames = declared.end.kept.again(MAX_PENDING)
                if not frames:
                    break
                self._write(b"".join(frames))

    def _write(self, frames: bytes) -> None:
        if self._pending:
            self._pending += frames
            return
        written = self._try_write(frames)
        if written < len(frames):
            self._pending += memoryview(frames)[written:]

    def _write_pending(self) -> None:
        while self._pending:
            written = self._try_write(self._pending)
            if written == 0:
                return
            del self._pending[:written]

    def _try_write(self, data: Union[bytes, bytearray]) -> int:
        """How many bytes the kernel took."""
        if self._socket is None:
            return 0
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self.last_error = f"writing failed: {error}"
            self._socket = None
            return 0

    # What the daemon says

    def locked_handle(self, frame: Incoming) -> None:
        """Takes a frame that is no message. Raises `ProtocolError` if the connection has to end."""
        if isinstance(frame, Grant):
            kept = self._output(frame.channel, "a grant").kept
            kept.granted(frame.total)
            if kept.is_behind():
                self.locked_flush()
            else:
                self.progress.ring()
        elif isinstance(frame, Acknowledge):
            if not self._output(frame.channel, "an acknowledgement").kept.acknowledged(frame.total):
                raise ProtocolError("the daemon acknowledges what it never got")
            self.progress.ring()
        elif isinstance(frame, Dropped):
            self._output(frame.channel, "something dropped").dropped_by_now(frame.total)
        elif isinstance(frame, From):
            self.input(frame.channel).arrivals.turn_to(frame.sender, frame.next, frame.kept)
        elif isinstance(frame, Skip):
            if not self.input(frame.channel).arrivals.skip(frame.count):
                raise ProtocolError(f"it skips numbers on {frame.channel}, which has none")
        elif isinstance(frame, (Reply, BadReply)):
            self._replied(frame)
        elif isinstance(frame, RefusedFrame):
            error = frame.error
            sentence = ": ".join([error.message, *error.causes])
            raise ProtocolError(f"the daemon refused ({error.code}): {sentence}")
        else:
            raise ProtocolError(f"{type(frame).__name__} is not for instances")

    def _output(self, channel: int, what: str) -> OutputEnd:
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
        if self._socket is None:
            return
        due = arrivals.due()
        if due is not None:
            if due.acknowledge is not None:
                self._pending += encode_frame(Acknowledge(channel, due.acknowledge))
            self._pending += encode_frame(Grant(channel, due.grant))
            self.locked_flush()
        elif not self.acknowledging and arrivals.is_behind():
            self.acknowledging = True
            self.rouse()

    def locked_acknowledge(self) -> None:
        """Acknowledges what there is to acknowledge, on all inputs."""
        self.acknowledging = False
        if self._socket is None:
            return
        for channel, declared in enumerate(self._declared):
            if isinstance(declared.end, InputEnd):
                total = declared.end.arrivals.acknowledge()
                if total is not None:
                    self._pending += encode_frame(Acknowledge(channel, total))
        self.locked_flush()

    def say_ready(self) -> None:
        """Says that the program is ready, on this connection and on all that follow."""
        with self.lock:
            self.locked_check_open()
            if not self._is_ready:
                self._is_ready = True
                if self._socket is not None:
                    self._pending += encode_frame(ReadyFrame())
                    self.locked_flush()

    # Requests

    def locked_ask(self, request: RuntimeRequest) -> Question:
        """Sends a request; `progress` rings when the question has an answer or an error."""
        self.locked_check_open()
        if self._socket is None:
            raise self.disconnected()
        # Also those that nobody waits for any more: the daemon has not answered them.
        if len(self._questions) >= MAX_REQUESTS:
            raise RequestError(0, f"more than {MAX_REQUESTS} requests at a time", [])
        number = self._next_question
        try:
            frame = encode_frame(Request(number, request))
        except EncodeError as error:
            raise RequestError(0, f"the request can't be sent: {error}", []) from None
        self._next_question = (number + 1) & 0xFFFFFFFF
        question = self._questions[number] = Question()
        self._pending += frame
        self.locked_flush()
        return question

    def _replied(self, reply: Union[Reply, BadReply]) -> None:
        question = self._questions.pop(reply.id, None)
        if question is None:
            return
        if isinstance(reply, BadReply):
            question.error = RequestError(0, f"the answer can't be read: {reply.problem}", [])
        elif isinstance(reply.result, Failure):
            error = reply.result.error
            question.error = RequestError(error.code, error.message, error.causes)
        else:
            question.reply = reply.result.reply
        self.progress.ring()


_links: "weakref.WeakSet[Link]" = weakref.WeakSet()


def _forsake_all() -> None:
    for link in list(_links):
        link.forsake()


os.register_at_fork(after_in_child=_forsake_all)
