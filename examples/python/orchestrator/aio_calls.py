"""Calls for `asyncio`: what `orchestrator.aio` gives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from types import TracebackType
from typing import Any, Callable, Generic, Optional, TypeVar

from . import client as blocking_client
from . import service as blocking_service
from .call_errors import ReplyNotSent
from .client import DEADLINE_S, GRACE_S
from .errors import Closed, Stopped, TimedOut
from .service import AT_ONCE

_Req = TypeVar("_Req")
_Rep = TypeVar("_Rep")


class Client(Generic[_Req, _Rep]):
    """Where calls of one type leave this program; see `orchestrator.Client`."""

    def __init__(self, client: "blocking_client.Client[_Req, _Rep]") -> None:
        self._client = client
        self._progress = client._link.progress

    async def call(self, request: _Req, deadline: float = DEADLINE_S) -> _Rep:
        """Calls, and waits for the reply; see `orchestrator.Client.call`. A coroutine that is
        cancelled cancels the call."""
        with self._client.flight(request, deadline) as flight:
            try:
                await self._progress.until_async(flight.asking, flight.left_s(), flight.unsent)
            except TimedOut:
                raise flight.not_connected() from None
            try:
                payload = await flight.answered.until_async(
                    flight.answering, flight.left_s(GRACE_S), flight.unsent
                )
            except TimedOut:
                raise flight.no_answer() from None
        return self._client.decoded(payload)


class Call(Generic[_Req, _Rep]):
    """A call that waits for its answer; see `orchestrator.Call`."""

    def __init__(self, call: "blocking_service.Call[_Req, _Rep]") -> None:
        self._call = call

    @property
    def request(self) -> _Req:
        """What is asked."""
        return self._call.request

    @property
    def deadline(self) -> float:
        """When its time is over, by `time.monotonic`."""
        return self._call.deadline

    @property
    def left_s(self) -> float:
        """How many seconds are left until its time is over; at least 0."""
        return self._call.left_s

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._call.is_cancelled

    @property
    def is_answered(self) -> bool:
        """Whether it has its answer."""
        return self._call.is_answered

    async def wait_cancelled(self, timeout: Optional[float] = None) -> None:
        """Waits until nobody waits for the answer any more; see `orchestrator.Call`."""
        bell = self._call._hand.cancelled
        await bell.until_async(self._call.cancelling, timeout, "it was not cancelled")

    async def reply(self, reply: _Rep) -> None:
        """Replies; see `orchestrator.Call.reply`."""
        call = self._call
        attempt = call.replying(reply)
        try:
            progress = call._link.progress
            await progress.until_async(attempt, call.left_s, "no room for the reply")
        except TimedOut:
            raise call.too_late() from None

    def fail(self, why: object) -> None:
        """Says that there is no reply, and why; see `orchestrator.Call.fail`."""
        self._call.fail(why)

    def refuse(self, why: object) -> None:
        """Says that the request makes no sense, and why; see `orchestrator.Call.refuse`."""
        self._call.refuse(why)

    def __enter__(self) -> "Call[_Req, _Rep]":
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._call.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        return repr(self._call)


class Service(Generic[_Req, _Rep]):
    """Where calls of one type arrive; see `orchestrator.Service`."""

    def __init__(self, service: "blocking_service.Service[_Req, _Rep]") -> None:
        self._service = service

    @property
    def at_once(self) -> int:
        """How many calls it may be given at once."""
        return self._service.at_once

    async def receive(self, timeout: Optional[float] = None) -> Call[_Req, _Rep]:
        """The next call; see `orchestrator.Service.receive`."""
        service = self._service
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            # Other tasks have their turn, also if nothing has to be waited for.
            await asyncio.sleep(0)
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            bell = service._end.arrived
            hand = await bell.until_async(service.locked_next, left, service.in_vain)
            call = service.call_of(hand)
            if call is not None:
                return Call(call)

    def try_receive(self) -> Optional[Call[_Req, _Rep]]:
        """The next call, if one has arrived."""
        call = self._service.try_receive()
        return None if call is None else Call(call)

    async def __aiter__(self) -> AsyncIterator[Call[_Req, _Rep]]:
        """The calls, one after the other, until the program was asked to stop or the runtime is
        closed."""
        while True:
            try:
                call = await self.receive()
            except (Stopped, Closed):
                return
            yield call
            del call

    async def serve(
        self, function: Callable[[_Req], Awaitable[_Rep]], at_once: int = AT_ONCE
    ) -> None:
        """Answers calls, so many at once, each in a task of its own, until the program was asked to
        stop or the runtime is closed; see `orchestrator.Service.serve`. A task is cancelled when
        nobody waits for its answer any more, and all are when `serve` is."""
        if at_once < 1:
            raise ValueError(f"a service answers at least one call at once, not {at_once}")
        tasks: set[asyncio.Future[None]] = set()
        try:
            async for call in self:
                tasks.add(asyncio.ensure_future(self._answer(function, call)))
                del call
                while len(tasks) >= at_once:
                    _, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                tasks = {task for task in tasks if not task.done()}
            if tasks:
                await asyncio.wait(tasks)
        finally:
            self.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(
        self, function: Callable[[_Req], Awaitable[_Rep]], call: Call[_Req, _Rep]
    ) -> None:
        with call:
            if self._service.is_unwanted(call._call):
                return
            watch = asyncio.ensure_future(call.wait_cancelled())
            work: "asyncio.Future[Any]" = watch
            try:
                work = asyncio.ensure_future(function(call.request))
                await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done() and not call.is_cancelled:
                    # The program was asked to stop: what is at work is finished.
                    await asyncio.wait({work})
                if not work.done():
                    call.fail("cancelled")
                    return
                await call.reply(work.result())
            except (ReplyNotSent, Closed):
                # The connection is gone, and so is the caller.
                pass
            except Exception as error:
                self._service.tell(call._call, error)
            finally:
                for task in (work, watch):
                    task.cancel()
                await asyncio.gather(work, watch, return_exceptions=True)

    def close(self) -> None:
        """Takes no more calls; see `orchestrator.Service.close`."""
        self._service.close()
