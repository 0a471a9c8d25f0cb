"""PURE: which messages an input has had already.

Messages of one sender come in the order of their numbers. Some come again, after a connection was
lost, and never later than what follows them: so it is enough to know, of each sender, the number
that comes next.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Optional

from .frames import Sender

MAX_SENDERS = 4096
"""Senders that one input remembers. Each process of an instance is another one, so the one that was
silent for longest makes room: should it speak again after all, its messages are taken as new."""


class Seen:
    """What one input has had, over all connections."""

    def __init__(self) -> None:
        self._places: "OrderedDict[Sender, int]" = OrderedDict()
        """The number that comes next; who was silent for longest stands first."""
        self._sender: Optional[Sender] = None
        self._arriving = 0
        self._next = 0

    @property
    def sender(self) -> Optional[Sender]:
        """Whose messages arrive now; none for messages without numbers."""
        return self._sender

    def turn_to(self, sender: Optional[Sender], first: int) -> None:
        """The messages that follow are from this sender, numbered from `first` on."""
        self._note()
        self._sender = sender
        if sender is not None:
            self._arriving = first
            self._next = self._places.get(sender, first)

    def skip(self, count: int) -> bool:
        """So many numbers are left out. False if there are no numbers."""
        self._arriving += count
        return self._sender is not None

    def arrived(self) -> Optional[tuple[int, int]]:
        """A message arrived: its number, and how many right before it never came; none if it was
        there before. Without numbers both are 0."""
        if self._sender is None:
            return 0, 0
        number = self._arriving
        self._arriving += 1
        if number < self._next:
            return None
        missed = number - self._next
        self._next = self._arriving
        return number, missed

    def _note(self) -> None:
        """Writes down how far the present sender has come."""
        if self._sender is None:
            return
        self._places[self._sender] = self._next
        self._places.move_to_end(self._sender)
        if len(self._places) > MAX_SENDERS:
            self._places.popitem(last=False)

    def places(self) -> list[tuple[Sender, int]]:
        """Each sender, and the number that comes next."""
        self._note()
        return list(self._places.items())
