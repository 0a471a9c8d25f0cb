"""PURE: what one output has sent, how much more it may send, and its copies of what may have to be
sent again.

Each message has a number, counted from 0 over all connections. In their order stand

    settled ≤ written ≤ next

- below `settled` nothing is kept: it was acknowledged, or no link with the policy `block` took it;
- from `settled` to `next` there are copies;
- from `written` to `next` they were written to an earlier connection, not to this one.

Copies are made as long as the daemon's grant is finite, because then a `block` link takes the
messages, and until it has answered the declaration, because then one might.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Optional

from .frames import UNLIMITED

_UNANSWERED_MESSAGES = 1024
"""Messages that may be sent before the daemon has answered the declaration."""
_UNANSWERED_BYTES = 1 << 20
"""Bytes likewise; one more message may come on top."""
_MAX_KEPT = 256 << 20
"""Bytes of copies beyond which senders wait. A daemon lets no link come so far; this is for one
that does."""


class Kept:
    """The state of one output; see the module."""

    def __init__(self) -> None:
        self.next = 0
        self.settled = 0
        self._base = 0
        """The number of this connection's first message."""
        self._limit: Optional[int] = None
        """How many messages this connection may have carried; none before the daemon has said."""
        self._held = False
        """Whether the daemon that answered last had a `block` link for this output."""
        self._written: deque[bytes] = deque()
        self._unwritten: deque[bytes] = deque()
        self._bytes = 0

    @property
    def written(self) -> int:
        """The number of the first message that this connection did not carry."""
        return self.next - len(self._unwritten)

    def begin(self) -> tuple[int, int]:
        """A connection begins: the number of its first message, and how many come again."""
        self._unwritten.extendleft(reversed(self._written))
        self._written.clear()
        self._base, self._limit = self.settled, None
        return self._base, self.next - self._base

    def _keeps(self) -> bool:
        return self._limit != UNLIMITED

    def waits(self) -> bool:
        """Whether a sender should wait for the next connection rather than fail."""
        return self._held or self.settled < self.next

    def is_behind(self) -> bool:
        """Whether something must be sent again before anything new."""
        return bool(self._unwritten)

    def take(self, frames: Sequence[bytes]) -> int:
        """How many of these new messages, the first ones, may be written now. They count as
        written."""
        if self._unwritten or (self._keeps() and self._bytes >= _MAX_KEPT):
            return 0
        sent = self.next - self._base
        if self._limit is not None:
            allowed = self._limit - sent
        elif self._bytes >= _UNANSWERED_BYTES:
            allowed = 0
        else:
            allowed = _UNANSWERED_MESSAGES - sent
        count = max(0, min(allowed, len(frames)))
        self.next += count
        if self._keeps():
            taken = frames[:count]
            self._written.extend(taken)
            self._bytes += sum(map(len, taken))
        else:
            self.settled += count
        return count

    def again(self, most: int) -> list[bytes]:
        """What is to be sent again now, at least one message if there is one, then as many as fit
        so many bytes. It counts as written."""
        if self._limit is None:
            return []
        allowed = self._limit - (self.written - self._base)
        taken: list[bytes] = []
        while self._unwritten and len(taken) < allowed and most > 0:
            frame = self._unwritten.popleft()
            self._written.append(frame)
            taken.append(frame)
            most -= len(frame)
        self._forget_if_free()
        return taken

    def granted(self, total: int) -> None:
        """The daemon allows so many messages in total."""
        self._limit, self._held = total, total != UNLIMITED
        self._forget_if_free()

    def _forget_if_free(self) -> None:
        """Nobody will acknowledge what no `block` link takes."""
        if not self._keeps() and not self._unwritten:
            self._settle(self.next)

    def acknowledged(self, total: int) -> bool:
        """The daemon acknowledges so many messages in total. False if that is more than it got."""
        if total > self.written - self._base:
            return False
        self._settle(self._base + total)
        return True

    def _settle(self, settled: int) -> None:
        while self.settled < settled:
            self.settled += 1
            if self._written:
                self._bytes -= len(self._written.popleft())
