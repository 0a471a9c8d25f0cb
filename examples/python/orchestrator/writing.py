"""What is on its way to the kernel over the present connection."""

from __future__ import annotations

import socket
from typing import Optional, Union

MAX_PENDING = 1 << 20
"""Bytes that wait for the kernel before senders wait; one more message or batch may come on top."""


class Writing:
    """The writing half of one connection after the other. Nothing here waits."""

    def __init__(self) -> None:
        self.last_error: Optional[str] = None
        """Why a connection was lost, or could not be made again, the last time."""
        self.socket: Optional[socket.socket] = None
        """The present connection; none if there is none. For who is in a hurry, as the next."""
        self.pending = bytearray()
        """What waits for the kernel."""

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self.socket is not None

    @property
    def is_idle(self) -> bool:
        """Whether no bytes wait for the kernel."""
        return not self.pending

    @property
    def is_full(self) -> bool:
        """Whether so many bytes wait for the kernel that nothing should be added."""
        return len(self.pending) >= MAX_PENDING

    def begin(self, connected: socket.socket) -> None:
        """A connection begins."""
        self.socket = connected
        self.pending.clear()

    def end(self, reason: str) -> None:
        """The connection has ended."""
        self.socket, self.last_error = None, reason
        self.pending.clear()

    def forsake(self) -> None:
        """Closes this process's copy of the socket, and nothing else."""
        if self.socket is not None:
            self.socket.close()
        self.socket = None

    def push(self, frame: bytes) -> None:
        """A frame that is written with the next flush."""
        self.pending += frame

    def write(self, frames: bytes) -> None:
        """Frames that are written now, as far as the kernel takes them."""
        if self.pending:
            self.pending += frames
            return
        written = self._try_write(frames)
        if written < len(frames):
            self.pending += memoryview(frames)[written:]

    def flush(self) -> None:
        """Writes what waits, as far as the kernel takes it now."""
        while self.pending:
            written = self._try_write(self.pending)
            if written == 0:
                return
            del self.pending[:written]

    def _try_write(self, data: Union[bytes, bytearray]) -> int:
        """How many bytes the kernel took."""
        if self.socket is None:
            return 0
        try:
            return self.socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self.last_error = f"writing failed: {error}"
            self.socket = None
            return 0
