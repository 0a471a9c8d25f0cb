"""PURE: messages that arrived at one input and were not received yet, the account of its window,
and what the daemon is told.

A message is *waiting* from its arrival until the program has come back for the one after it. Only
then is it acknowledged, so that what a program was at work on when it died comes again to its
next process.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple, Optional

from .errors import ProtocolError
from .frames import STAMP, Sender
from .seen import Seen


class Arrival(NamedTuple):
    """One message, before it is decoded."""

    payload: bytes
    sender: Optional[Sender]
    number: int
    missed: int
    form: int = 0
    """In which form it is written; 0 is that of the declaration."""
    sent_ns: Optional[int] = None
    """When it was sent, nanoseconds since 1970, if its sender says so."""


@dataclass(frozen=True)
class Due:
    """What the daemon is to be told now, on this connection."""

    grant: int
    acknowledge: Optional[int]


class Arrivals:
    """The state of one input; see the module."""

    def __init__(self, window: int, forms: int = 1) -> None:
        self.window = window
        self._forms, self._form = forms, 0
        self._stamped = False
        """Whether what comes next has a stamp."""
        self.missed = 0
        """Messages that never came, in all."""
        self.closed = False
        self._step = max(window // 2, 1)
        """After how many consumed messages it is worth a grant."""
        self._messages: deque[Arrival] = deque()
        self._is_out = False
        """Whether the program has a message and has not come back."""
        self._waiting = 0
        self._carried = 0
        """The first so many of those came over earlier connections."""
        self._received = 0
        """Arrived on this connection, also those that were there before."""
        self._granted = 0
        self._acknowledged = 0
        self._late = 0
        """Came again while others waited: they are acknowledged when none waits any more, because
        acknowledgements count from the beginning."""
        self._kept = False
        """Whether the daemon keeps any on this connection: else nobody wants acknowledgements."""
        self._seen = Seen()

    def begin(self) -> Optional[int]:
        """A connection begins: how many messages may come before the first grant; none if nobody
        receives any more."""
        # Zero would mean no limit.
        self._granted = max(self.window - self._waiting, 1)
        self._carried = self._waiting
        self._received = self._acknowledged = self._late = 0
        self._kept = False
        self._seen.turn_to(None, 0)
        self._form, self._stamped = 0, False
        return None if self.closed else self._granted

    def places(self) -> list[tuple[Sender, int]]:
        """Each sender of whom something arrived, and the number that comes next."""
        return self._seen.places()

    def turn_to(self, sender: Optional[Sender], first: int, kept: bool) -> None:
        """The messages that follow are from this sender, numbered from `first` on, and the daemon
        may keep them until they are acknowledged."""
        self._seen.turn_to(sender, first)
        self._kept = self._kept or kept

    def turn_to_form(self, form: int) -> bool:
        """The messages that follow are written in this form. False if there is none such."""
        self._form = form
        return form < self._forms

    def turn_to_stamps(self, stamped: bool) -> None:
        """The messages that follow have a stamp, or none."""
        self._stamped = stamped

    def skip(self, count: int) -> bool:
        """So many numbers are left out. False if there are no numbers."""
        return self._seen.skip(count)

    def push(self, payload: bytes) -> bool:
        """A message arrived. False if it was there before, or nobody wants it.

        Raises `ProtocolError` if it is more than was allowed.
        """
        if self._received >= self._granted:
            raise ProtocolError("the daemon sent more messages than it was granted")
        self._received += 1
        place = self._seen.arrived()
        if place is None:
            if self._waiting > 0:
                self._late += 1
            return False
        # At most the window, plus one after a reconnection.
        self._waiting += 1
        number, missed = place
        self.missed += missed
        if self.closed:
            # Never consumed, so never acknowledged.
            return False
        sent_ns = None
        if self._stamped and len(payload) >= STAMP:
            sent_ns = int.from_bytes(payload[-STAMP:], "little")
            payload = payload[:-STAMP]
        arrival = Arrival(payload, self._seen.sender, number, missed, self._form, sent_ns)
        self._messages.append(arrival)
        return True

    def come_back(self) -> None:
        """The program is done with the message that it took last."""
        if not self._is_out:
            return
        self._is_out = False
        self._waiting -= 1
        self._carried = max(self._carried - 1, 0)
        if self._waiting == 0:
            self._late = 0

    def take(self) -> Optional[Arrival]:
        """The next message, if there is one."""
        if not self._messages:
            return None
        self._is_out = True
        return self._messages.popleft()

    def __len__(self) -> int:
        return len(self._messages)

    def _done(self) -> int:
        """Messages of this connection, counted from its beginning, that are never needed again."""
        return self._received - (self._waiting - self._carried) - self._late

    def acknowledge(self) -> Optional[int]:
        """What to acknowledge on this connection, if there is anything new."""
        done = self._done()
        if not self._kept or done <= self._acknowledged:
            return None
        self._acknowledged = done
        return done

    def is_behind(self) -> bool:
        """Whether there is something to acknowledge, for which it is not worth writing at once."""
        return self._kept and self._done() > self._acknowledged

    def due(self) -> Optional[Due]:
        """What to tell the daemon, if it is time for that: when so many more may come than it
        knows."""
        grant = self._received + max(self.window - self._waiting, 0)
        if grant < self._granted + self._step:
            return None
        self._granted = grant
        return Due(grant, self.acknowledge())

    def close(self) -> None:
        """Nobody receives any more."""
        self.closed = True
        self._messages.clear()
