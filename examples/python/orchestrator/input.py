"""Receiving messages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, Optional, TypeVar
from uuid import UUID

from .arrivals import Arrival
from .ends import InputEnd
from .errors import Closed, DecodeError, Stopped
from .forms import forms_of
from .link import Link
from .message import name_of

_T = TypeVar("_T")


@dataclass(frozen=True)
class Envelope(Generic[_T]):
    """A message, and what the daemon tells about it."""

    message: _T
    sender: Optional[UUID]
    """The instance that sent it; none for messages without numbers, such as those of the Veecle
    dialect."""
    number: int
    """Counted by its sender's process from 0 on; 0 without a sender."""
    missed: int
    """How many messages of this sender, right before this one, never came: they were dropped by
    the link's policy, lost with a daemon, or sent while no link carried them."""
    sent_ns: Optional[int] = None
    """When it was sent, nanoseconds since 1970 by the clock of its sender, as `time.time_ns` has them:
    when the program called what sends it. None if its sender does not say: see `Runtime.output`."""


class Input(Generic[_T]):
    """Where messages of one type arrive. Made by `Runtime.input`.

    >>> for imu in runtime.input(Imu):
    ...     print(imu.n)

    The daemon sends no more than the window ahead of what was received here; what happens to the
    rest is up to the link's policy. A message is acknowledged when the program comes back for the
    one after it; if it dies before, its next process gets the message again, where the link's
    policy is `block`. So one thread should receive from an input; several may, and then each
    acknowledges what the others are still at work on.
    """

    def __init__(self, link: Link, owner: object, cls: type[_T], window: int) -> None:
        if not isinstance(window, int) or not 1 <= window < 1 << 32:
            raise ValueError(f"a window is 1 to {(1 << 32) - 1} messages, not {window!r}")
        self.name = name_of(cls)
        """The type's name."""
        self._forms = forms_of(cls)
        own, *also = [form.schema for form in self._forms]
        self.channel = link.declare(self.name, own, window, also)
        """Its number on the wire."""
        end = link.end(self.channel)
        assert isinstance(end, InputEnd)
        self._end = end
        self._link = link
        self._owner = owner
        self.in_vain = f"no message of type {self.name}"

    @property
    def missed(self) -> int:
        """How many messages never came, in all, as far as was heard; see `Envelope.missed`."""
        return self._end.arrivals.missed

    def receive(self, timeout: Optional[float] = None) -> _T:
        """The next message. Waits for it, for `timeout` seconds at most or without a limit; while
        the connection is broken this just waits.

        Raises `TimedOut`, `Stopped` or `Closed` if none comes, and `DecodeError` for a message that
        is not a value of the type: only that one is lost.
        """
        message: _T = self.decoded(self._next(timeout))
        return message

    def receive_envelope(self, timeout: Optional[float] = None) -> Envelope[_T]:
        """The same, with who sent it and how many were missed."""
        return self.envelope(self._next(timeout))

    def try_receive(self) -> Optional[_T]:
        """The next message, if one has arrived."""
        with self._link.lock:
            arrival = self.locked_next()
        return None if arrival is None else self.decoded(arrival)

    def __iter__(self) -> Iterator[_T]:
        """The messages, one after the other, until the program was asked to stop or the runtime is
        closed. A message that can't be decoded raises `DecodeError`, and ends the loop."""
        while True:
            try:
                arrival = self._next(None)
            except (Stopped, Closed):
                return
            yield self.decoded(arrival)

    def close(self) -> None:
        """Takes no more messages, until the program ends: under `block` their senders wait that
        long."""
        with self._link.lock:
            self._end.arrivals.close()
            self._end.arrived.ring()

    def _next(self, timeout: Optional[float]) -> Arrival:
        return self._end.arrived.until(self.locked_next, timeout, self.in_vain)

    def locked_next(self) -> Optional[Arrival]:
        """The next message, as it came, if there is one. Raises if there is no use in waiting."""
        arrival = self.locked_take()
        if arrival is None:
            self._link.locked_check()
            if self._end.arrivals.closed:
                raise Closed(f"the input {self.name} was closed")
        return arrival

    def locked_take(self) -> Optional[Arrival]:
        """The next message, as it came, if there is one; the one before is done with."""
        link, arrivals = self._link, self._end.arrivals
        if link.is_stopping or link.is_closed:
            return None
        arrivals.come_back()
        arrival = arrivals.take()
        link.locked_tell(self.channel, arrivals)
        return arrival

    def envelope(self, arrival: Arrival) -> Envelope[_T]:
        """An arrival for people. Raises `DecodeError`."""
        sender = None if arrival.sender is None else UUID(bytes=arrival.sender.instance)
        message: _T = self.decoded(arrival)
        return Envelope(message, sender, arrival.number, arrival.missed, arrival.sent_ns)

    def decoded(self, arrival: Arrival) -> Any:
        """The message in an arrival. Raises `DecodeError`."""
        try:
            return self._forms[arrival.form].decode(arrival.payload)
        except DecodeError as error:
            raise error.within(self.name) from error.__cause__

    def __repr__(self) -> str:
        return f"Input({self.name!r})"
