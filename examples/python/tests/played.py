"""A daemon that a test plays itself, on a socket of its own."""

import socket
import tempfile
import threading
import unittest
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, TypeVar

from orchestrator import Output, Runtime, UInt8, UInt32, message, unnamed
from orchestrator.call_frames import Calls, DeclareCalls, DeclareCallsFrame
from orchestrator.frames import (
    MAGIC,
    PROTOCOL,
    Declare,
    DeclareFrame,
    Frame,
    Hello,
    Incoming,
    Keep,
    Message,
    Recognise,
    Report,
    Stamps,
    Unframer,
    Welcome,
    decode_frame,
    encode_frame,
)
from orchestrator.kept import Kept

SOON_S = 30.0
"""How long anything that should happen soon may take on a busy machine."""
INSTANCE = bytes(range(16))

_Kind = TypeVar("_Kind")


@message("n")
@unnamed
@dataclass
class Number:
    value: UInt32


@message("other")
@dataclass
class Other:
    value: UInt8


@message("blob")
@dataclass
class Blob:
    raw: bytes


class Peer:
    """The daemon's side of a connection."""

    def __init__(self, stream: socket.socket) -> None:
        stream.settimeout(SOON_S)
        self._stream, self._unframer = stream, Unframer()
        self._frames: list[Incoming] = []

    def next(self) -> Incoming:
        """The next frame; `EOFError` at the end."""
        while not self._frames:
            data = self._stream.recv(1 << 16)
            if not data:
                raise EOFError
            self._frames += map(decode_frame, self._unframer.feed(data))
        return self._frames.pop(0)

    def expect(self, kind: type[_Kind]) -> _Kind:
        """The next frame, which has to be of this kind."""
        frame = self.next()
        assert isinstance(frame, kind), f"{frame} is no {kind.__name__}"
        return frame

    def expect_past(self, kind: type[_Kind]) -> _Kind:
        """The next frame of this kind; others before it are passed over."""
        while True:
            frame = self.next()
            if isinstance(frame, kind):
                return frame

    def declared(self, before: type[object]) -> Declare:
        """The next declaration, and what stands before it."""
        self.expect(before)
        return self.expect(DeclareFrame).declare

    def output(self) -> Keep:
        """An output is declared; the answer is how it begins."""
        keep = self.expect(Keep)
        declare = self.expect(DeclareFrame).declare
        assert self.expect(Report).channel == declare.channel
        return keep

    def input(self) -> Declare:
        """An input is declared."""
        self.takes_stamps()
        return self.declared(Recognise)

    def takes_stamps(self) -> None:
        """An input that is declared next wants to know when messages were sent."""
        assert self.expect(Stamps).stamped

    def calls(self, kind: type[_Kind]) -> _Kind:
        """The next frame, which has to be of this kind, about calls."""
        frame = self.expect(Calls).frame
        assert isinstance(frame, kind), f"{frame} is no {kind.__name__}"
        return frame

    def end_of_calls(self) -> DeclareCalls:
        """An end of calls is declared."""
        return self.calls(DeclareCallsFrame).declare

    def payloads(self, count: int) -> list[bytes]:
        """The payloads of the next messages."""
        return [self.expect(Message).payload for _ in range(count)]

    def send(self, *frames: Frame) -> None:
        self.write(b"".join(map(encode_frame, frames)))

    def write(self, data: bytes) -> None:
        self._stream.sendall(data)

    def welcome(self) -> None:
        """Greets, as a daemon does."""
        hello = self.expect(Hello)
        assert hello.magic == MAGIC and hello.protocol == PROTOCOL
        self.send(Welcome(PROTOCOL, "played", INSTANCE))

    def ended(self) -> None:
        """Waits until the other side closes the connection."""
        try:
            while True:
                self.next()
        except (EOFError, ConnectionError):
            pass

    def close(self) -> None:
        self._stream.close()


class Played(unittest.TestCase):
    """A test with a socket on which it plays the daemon."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="orc")
        self.addCleanup(directory.cleanup)
        self.path = str(Path(directory.name) / "s")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(self.listener.close)
        self.listener.bind(self.path)
        self.listener.listen(16)
        self.listener.settimeout(SOON_S)

    def accept(self) -> Peer:
        stream, _ = self.listener.accept()
        self.addCleanup(stream.close)
        return Peer(stream)

    def begin(self) -> "tuple[Runtime, Peer]":
        """A runtime that is connected, and the daemon's side of it."""
        peers: list[Peer] = []

        def greet() -> None:
            peers.append(self.accept())
            peers[0].welcome()

        greeting = threading.Thread(target=greet)
        greeting.start()
        runtime = Runtime.connect_to(self.path)
        greeting.join()
        self.addCleanup(runtime.close, 0)
        return runtime, peers[0]

    def again(self) -> Peer:
        """The next connection, greeted."""
        peer = self.accept()
        peer.welcome()
        return peer


def until(runtime: Runtime, check: Callable[[], bool]) -> None:
    """Waits until the runtime has heard something."""
    runtime._link.progress.until(lambda: check() or None, SOON_S, "it did not hear")


def kept(output: "Output[Any]") -> Kept:
    """What an output knows of its messages."""
    return output._end.kept


class Beside:
    """Does something in a thread; `result` waits for what becomes of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._outcome: list[Any] = []
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self._outcome = [work(), None]
        except Exception as error:
            self._outcome = [None, error]

    def result(self) -> Any:
        self._thread.join(SOON_S)
        assert self._outcome, "it still waits"
        value, error = self._outcome
        if error is not None:
            raise error
        return value
