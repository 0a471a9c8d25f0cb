"""Where threads and coroutines wait for something to change."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Callable, Optional, TypeVar

from .errors import TimedOut

if TYPE_CHECKING:
    import asyncio

_T = TypeVar("_T")

Attempt = Callable[[], Optional[_T]]
"""Tried with the lock held: what was waited for, or `None` to wait on. Raises if waiting is of no
use any more. Does not wait."""


class Bell:
    """Wakes all who wait."""

    def __init__(self, lock: threading.Lock) -> None:
        self.lock = lock
        self._condition = threading.Condition(lock)
        self._listeners: set[Callable[[], None]] = set()
        """Called at the next ring, once, from any thread, with the lock held: they must not wait or
        raise. So a loop that is busy elsewhere is not told again and again."""

    def ring(self) -> None:
        """Something has changed. Called with the lock held."""
        self._condition.notify_all()
        if self._listeners:
            listeners, self._listeners = self._listeners, set()
            for listener in listeners:
                listener()

    def until(self, attempt: Attempt[_T], timeout: Optional[float], what: str) -> _T:
        """Tries again after each ring, for `timeout` seconds at most, or without a limit. Raises
        `TimedOut`, with `what` did not happen."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.lock:
            while True:
                found = attempt()
                if found is not None:
                    return found
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise _timed_out(what, timeout)
                self._condition.wait(left)

    async def until_async(self, attempt: Attempt[_T], timeout: Optional[float], what: str) -> _T:
        """The same for a coroutine. If it is cancelled, the last attempt was one in vain."""
        # Here, since it takes long to load, and threads do without it.
        import asyncio

        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while True:
            with self.lock:
                found = attempt()
                if found is not None:
                    return found
                if deadline is not None and loop.time() >= deadline:
                    raise _timed_out(what, timeout)
                rung = loop.create_future()
                listener = _listener(loop, rung)
                self._listeners.add(listener)
            timer = None if deadline is None else loop.call_at(deadline, _rouse, rung)
            try:
                await rung
            finally:
                if timer is not None:
                    timer.cancel()
                with self.lock:
                    self._listeners.discard(listener)


def _listener(loop: asyncio.AbstractEventLoop, rung: "asyncio.Future[None]") -> Callable[[], None]:
    def listener() -> None:
        try:
            loop.call_soon_threadsafe(_rouse, rung)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            pass

    return listener


def _rouse(rung: "asyncio.Future[None]") -> None:
    if not rung.done():
        rung.set_result(None)


def _timed_out(what: str, timeout: Optional[float]) -> TimedOut:
    return TimedOut(f"{what} within {timeout} s")
