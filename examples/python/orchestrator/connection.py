"""One connection after the other: the greeting, reading, and coming back."""

from __future__ import annotations

import random
import select
import socket
import time
from dataclasses import dataclass
from typing import Optional

from .ends import InputEnd
from .errors import ConnectError, ProtocolError, Refused
from .frames import (
    MAGIC,
    PROTOCOL,
    Hello,
    RefusedFrame,
    Unframer,
    Welcome,
    as_message,
    decode_frame,
    encode_frame,
)
from .hearing import locked_hear
from .link import Link

GREETING_S = 10.0
"""How long connecting and the greeting may take together."""
_CHUNK = 64 << 10
"""How much is read at once."""
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.01, 1.0
"""The pauses before connecting again: each is twice as long as the one before."""
_STABLE_S = 1.0
"""A connection that lasted for so long ends the series of pauses."""
_ACKNOWLEDGE_S = 0.01
"""How late an acknowledgement may be: it waits for further ones, or for a grant that it can go
with."""

VERSION = "0.1.0"


def hello() -> bytes:
    """The first frame of a connection."""
    return encode_frame(Hello(MAGIC, PROTOCOL, f"orchestrator-python {VERSION}"))


@dataclass
class Connection:
    """A connection after the greeting."""

    socket: socket.socket
    bodies: list[bytes]
    """What was read beyond the greeting."""
    unframer: Unframer
    instance: bytes


def open_connection(path: str, link: Optional[Link] = None) -> Connection:
    """Connects and says hello. Raises `ConnectError`, at once if the link is closed meanwhile."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        return _greet(stream, path, link)
    except BaseException:
        stream.close()
        raise


def _greet(stream: socket.socket, path: str, link: Optional[Link]) -> Connection:
    deadline = time.monotonic() + GREETING_S
    stream.settimeout(GREETING_S)
    try:
        stream.connect(path)
    except (OSError, ValueError) as error:
        raise ConnectError(f"can't connect to {path}: {error}; is the daemon running?") from error
    failed: Optional[OSError] = None
    try:
        stream.sendall(hello())
    except OSError as error:
        # A daemon that refuses at once may close before it has read this; its answer is there to
        # be read all the same.
        failed = error
    unframer = Unframer()
    bodies: list[bytes] = []
    while not bodies:
        left = deadline - time.monotonic()
        if left <= 0:
            raise ConnectError(f"no answer within {GREETING_S:g} s from {path}")
        if not _readable(stream, left, link):
            continue
        try:
            read = stream.recv(_CHUNK)
        except OSError as error:
            raise ConnectError(f"reading from {path} failed: {error}") from error
        if not read:
            raise ConnectError(
                f"{path} was closed before it answered: {failed or 'no reason given'}"
            )
        try:
            bodies = unframer.feed(read)
        except ProtocolError as error:
            raise _stranger(str(error)) from error
    stream.setblocking(False)
    return Connection(stream, bodies[1:], unframer, _welcomed(bodies[0]))


def _welcomed(body: bytes) -> bytes:
    """The instance's id."""
    try:
        frame = decode_frame(body)
    except ProtocolError as error:
        raise _stranger(str(error)) from error
    if isinstance(frame, RefusedFrame):
        raise Refused(frame.error.code, frame.error.message, frame.error.causes)
    if not isinstance(frame, Welcome) or len(frame.instance) != 16:
        raise _stranger("it did not begin with a greeting")
    if frame.protocol != PROTOCOL:
        raise _stranger(f"it has version {frame.protocol}, this package has {PROTOCOL}")
    return frame.instance


def _stranger(problem: str) -> ConnectError:
    return ConnectError(f"what listens there does not speak this protocol: {problem}")


def run(link: Link, connection: Connection) -> None:
    """Serves one connection after the other, until the link is closed."""
    try:
        _run(link, connection)
    except BaseException as error:
        # A fault of this package, or no memory. Nobody is to wait for a thread that is gone.
        link.closed_because = f"the connection's thread has failed: {error!r}"
        raise
    finally:
        link.dispose()


def _run(link: Link, connection: Connection) -> None:
    current: Optional[Connection] = connection
    pause = _FIRST_PAUSE_S
    while current is not None:
        began = time.monotonic()
        reason = "serving it failed"
        try:
            reason = _Served(link, current).serve()
        finally:
            link.detach(reason)
            current.socket.close()
        # A daemon that welcomes us only to throw us out again is not asked at full speed.
        if time.monotonic() - began >= _STABLE_S:
            pause = _FIRST_PAUSE_S
        current = None
        while current is None and not link.is_closed:
            _sleep(link, pause * random.uniform(0.75, 1.25))
            pause = min(pause * 2, _LAST_PAUSE_S)
            if not link.is_closed:
                current = _try_open(link)
        if current is not None:
            link.attach(current.socket, current.instance)


def _try_open(link: Link) -> Optional[Connection]:
    try:
        return open_connection(link.path, link)
    except ConnectError as error:
        link.writing.last_error = str(error)
        return None


def _sleep(link: Link, seconds: float) -> None:
    """Ends early when the link is closed."""
    deadline = time.monotonic() + seconds
    while not link.is_closed:
        left = deadline - time.monotonic()
        if left <= 0:
            return
        _readable(None, left, link)


def _readable(stream: Optional[socket.socket], seconds: float, link: Optional[Link]) -> bool:
    """Whether there is something to read within so many seconds, or less if the link's thread is
    roused. Raises `ConnectError` if the link is closed."""
    poll = select.poll()
    if stream is not None:
        poll.register(stream, select.POLLIN)
    if link is not None:
        poll.register(link.woken, select.POLLIN)
    ready = [fd for fd, _ in poll.poll(int(seconds * 1000) + 1)]
    if link is not None and link.woken.fileno() in ready:
        _hear(link)
        if link.is_closed and stream is not None:
            raise ConnectError("the runtime was closed")
    return stream is not None and stream.fileno() in ready


def _hear(link: Link) -> None:
    """Takes what `rouse` has sent, and passes on a request to stop."""
    try:
        while len(link.woken.recv(4096)) == 4096:
            pass
    except OSError:
        pass
    if link.is_stopping or link.is_closed:
        with link.lock:
            link.locked_ring_all()


class _Served:
    """A connection that is being served."""

    def __init__(self, link: Link, connection: Connection) -> None:
        self._link = link
        self._socket = connection.socket
        self._unframer = connection.unframer
        self._bodies = connection.bodies
        self._acknowledge_at: Optional[float] = None
        self._give_up_at: Optional[float] = None
        """Set once writing has failed: what the daemon said before it closed may still be there."""
        self._problem: Optional[str] = None
        self._poll = select.poll()

    def serve(self) -> str:
        """Reads and writes until the connection breaks, or the link is closed; why it did."""
        try:
            self._deliver(self._bodies)
            self._poll.register(self._link.woken, select.POLLIN)
            while not self._link.is_closed:
                self._wait()
                if not self._read():
                    return self._problem or "the daemon closed the connection"
        except ProtocolError as error:
            return f"the daemon broke the protocol: {error}"
        except OSError as error:
            return self._problem or f"reading failed: {error}"
        except TimeoutError:
            return self._problem or "the connection broke"
        return "the runtime was closed"

    def _wait(self) -> None:
        """Waits until there is something to read, writes, and acknowledges when it is time."""
        link, now = self._link, time.monotonic()
        with link.lock:
            if not link.is_connected and self._give_up_at is None:
                self._problem = link.writing.last_error
                self._give_up_at = now + _STABLE_S
                link.progress.ring()
            link.locked_answer_left()
            if link.acknowledging and self._acknowledge_at is None:
                self._acknowledge_at = now + _ACKNOWLEDGE_S
            wants_write = link.wants_write
        writing = select.POLLOUT if wants_write else 0
        self._poll.register(self._socket, select.POLLIN | writing)
        ends = [at for at in (self._acknowledge_at, self._give_up_at) if at is not None]
        left_ms = max(0, int((min(ends) - now) * 1000) + 1) if ends else None
        for fd, _ in self._poll.poll(left_ms):
            if fd == link.woken.fileno():
                _hear(link)
        now = time.monotonic()
        if self._give_up_at is not None and now >= self._give_up_at:
            raise OSError("the connection broke")
        with link.lock:
            if wants_write:
                link.locked_flush()
            if self._acknowledge_at is not None and now >= self._acknowledge_at:
                self._acknowledge_at = None
                link.locked_acknowledge()

    def _read(self) -> bool:
        """Takes what has come. False at the end of the stream."""
        try:
            data = self._socket.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return True
        if not data:
            return False
        # Frames before a bad one are carried out.
        bodies: list[bytes] = []
        try:
            bodies.extend(self._unframer.bodies(data))
        finally:
            self._deliver(bodies)
        return True

    def _deliver(self, bodies: list[bytes]) -> None:
        if not bodies:
            return
        link = self._link
        touched: dict[int, InputEnd] = {}
        with link.lock:
            try:
                for body in bodies:
                    message = as_message(body)
                    if message is None:
                        locked_hear(link, decode_frame(body))
                        continue
                    channel, payload = message
                    end = touched.get(channel) or link.input(channel)
                    touched[channel] = end
                    end.arrivals.push(payload)
            finally:
                for channel, end in touched.items():
                    end.arrived.ring()
                    if not end.arrivals:
                        # They were nothing new: nobody who takes them tells the daemon.
                        link.locked_tell(channel, end.arrivals)
