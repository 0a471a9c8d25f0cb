"""Our ends of channels: what is declared, and what is known of it over all connections."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Union

from .arrivals import Arrivals
from .bell import Bell
from .kept import Kept
from .schema import Schema


class OutputEnd:
    """Our end of a channel on which we send."""

    def __init__(self, stamped: bool, also: Sequence[Schema] = ()) -> None:
        self.kept = Kept()
        self.stamped = stamped
        """Whether the time of sending stands behind each payload."""
        self.also = also
        """Other forms in which each message is written, best first."""
        self.dropped = 0
        """Messages that links dropped since there was no room for too long, on all connections."""
        self._dropped_here = 0

    def begin(self) -> tuple[int, int]:
        """A connection begins: the number of its first message, and how many come again."""
        self._dropped_here = 0
        return self.kept.begin()

    def dropped_by_now(self, total: int) -> None:
        """So many were dropped on this connection."""
        self.dropped += max(total - self._dropped_here, 0)
        self._dropped_here = max(total, self._dropped_here)


class InputEnd:
    """Our end of a channel on which we receive."""

    def __init__(self, window: int, also: Sequence[Schema], lock: threading.Lock) -> None:
        self.arrivals = Arrivals(window, 1 + len(also))
        self.also = also
        """Other forms that it takes, best first."""
        self.arrived = Bell(lock)


End = Union[OutputEnd, InputEnd]


class Declared:
    """A type, and our end of its channel."""

    def __init__(self, name: str, schema: Schema, end: End) -> None:
        self.name, self.schema, self.end = name, schema, end
