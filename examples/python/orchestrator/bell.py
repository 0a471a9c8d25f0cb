"""Where threads and coroutines wait for something to change."""

from __future__ import annotations

import threading
import time
from typing import Callable, Optional, Set


class Bell:
    """Wakes all who wait. Everything but the constructor is called with the lock held."""

    def __init__(self, lock: threading.Lock) -> None:
        self._condition = threading.Condition(lock)
        self.listeners: Set[Callable[[], None]] = set()
        """Called at each ring, from any thread, with the lock held: they must not wait."""

    def ring(self) -> None:
        """Something has changed."""
        self._condition.notify_all()
        for listener in self.listeners:
            listener()

    def wait(self, deadline: Optional[float]) -> bool:
        """Waits for the next ring, without the lock; false if the deadline, of
        `time.monotonic()`, passes before. May return early: look again."""
        if deadline is None:
            return self._condition.wait()
        left = deadline - time.monotonic()
        return left > 0 and self._condition.wait(left)


def deadline_of(timeout: Optional[float]) -> Optional[float]:
    """When so many seconds from now are over; none if there is no limit."""
    return None if timeout is None else time.monotonic() + timeout
