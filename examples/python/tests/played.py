"""A daemon that a test plays itself, on a socket of its own."""

import socket
import tempfile
import unittest
from pathlib import Path
from typing import List, Type, TypeVar

from orchestrator import Runtime
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
    Unframer,
    Welcome,
    decode_frame,
    encode_frame,
)

SOON_S = 30.0
"""How long anything that should happen soon may take on a busy machine."""
INSTANCE = bytes(range(16))

_Kind = TypeVar("_Kind")


class Peer:
    """The daemon's side of a connection."""

    def __init__(self, stream: socket.socket) -> None:
        stream.settimeout(SOON_S)
        self._stream, self._unframer = stream, Unframer()
        self._frames: List[Incoming] = []

    def next(self) -> Incoming:
        """The next frame; `EOFError` at the end."""
        while not self._frames:
            data = self._stream.recv(1 << 16)
            if not data:
                raise EOFError
            self._frames += map(decode_frame, self._unframer.feed(data))
        return self._frames.pop(0)

    def expect(self, kind: Type[_Kind]) -> _Kind:
        """The next frame, which has to be of this kind."""
        frame = self.next()
        assert isinstance(frame, kind), f"{frame} is no {kind.__name__}"
        return frame

    def declared(self, before: Type[object]) -> Declare:
        """The next declaration, and what stands before it."""
        self.expect(before)
        return self.expect(DeclareFrame).declare

    def output(self) -> Keep:
        """An output is declared; the answer is how it begins."""
        keep = self.expect(Keep)
        self.expect(DeclareFrame)
        return keep

    def input(self) -> Declare:
        """An input is declared."""
        return self.declared(Recognise)

    def payloads(self, count: int) -> List[bytes]:
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
        from threading import Thread

        peers: List[Peer] = []

        def greet() -> None:
            peers.append(self.accept())
            peers[0].welcome()

        greeting = Thread(target=greet)
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
