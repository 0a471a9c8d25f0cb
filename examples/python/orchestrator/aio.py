"""The same for `asyncio`.

    from orchestrator import aio

    async with aio.connect() as runtime:
        wheel = runtime.input(Wheel)
        speed = runtime.output(Speed)
        async for turn in wheel:
            await speed.send(Speed(turn.turns_per_s * 0.31))

What is waited for elsewhere is awaited here; all else is as there, and so are the errors. A
coroutine that is cancelled while it waits has sent or received nothing (`send_many`: the first
parts). Timeouts are arguments, since `asyncio.wait_for` may lose a message that comes at its very
end.
"""

from __future__ import annotations

import asyncio
import signal as signals
from types import TracebackType
from typing import (
    Any,
    AsyncIterator,
    Callable,
    Generator,
    Generic,
    Iterable,
    List,
    Optional,
    Set,
    Type,
    TypeVar,
    overload,
)
from uuid import UUID

from . import input as blocking_input
from . import output as blocking_output
from . import runtime as blocking
from .aio_calls import Call, Client, Service
from .arrivals import Arrival
from .control import (
    ListReply,
    ListRequest,
    Priority,
    RuntimeInfo,
    StartedReply,
    StartRequest,
    StoppedReply,
    StopRequest,
)
from .errors import Closed, Stopped
from .input import Envelope
from .runtime import DEFAULT_WINDOW, UNANSWERED
from .service import AT_ONCE

__all__ = [
    "Call",
    "Client",
    "Connecting",
    "Input",
    "Output",
    "Runtime",
    "Service",
    "connect",
    "connect_to",
]

_T = TypeVar("_T")
_R = TypeVar("_R")

_TURN = 64
"""After so many messages without a wait, other tasks have their turn."""


class Output(Generic[_T]):
    """Where messages of one type leave this program; see `orchestrator.Output`."""

    def __init__(self, output: "blocking_output.Output[_T]") -> None:
        self._output = output
        self._bell = output._link.progress
        self._turn = _Turn()

    @property
    def dropped(self) -> int:
        """How many messages links dropped after their block timeout; see
        `orchestrator.Output.dropped`."""
        return self._output.dropped

    async def send(self, message: _T, timeout: Optional[float] = None) -> None:
        """Sends one message; see `orchestrator.Output.send`."""
        await self._turn.pass_on()
        attempt = self._output.sending([self._output.frame(message)])
        await self._bell.until_async(attempt, timeout, self._output.in_vain)

    def try_send(self, message: _T) -> bool:
        """Sends one message if that is possible without waiting; see
        `orchestrator.Output.try_send`."""
        return self._output.try_send(message)

    async def send_many(self, messages: Iterable[_T], timeout: Optional[float] = None) -> int:
        """Sends many messages; see `orchestrator.Output.send_many`."""
        total = 0
        for frames in self._output.batches(messages):
            await asyncio.sleep(0)
            attempt = self._output.sending(frames)
            await self._bell.until_async(attempt, timeout, self._output.in_vain)
            total += len(frames)
        return total


class Input(Generic[_T]):
    """Where messages of one type arrive; see `orchestrator.Input`."""

    def __init__(self, source: "blocking_input.Input[_T]") -> None:
        self._input = source
        self._turn = _Turn()

    @property
    def missed(self) -> int:
        """How many messages never came, in all; see `orchestrator.Input.missed`."""
        return self._input.missed

    async def receive(self, timeout: Optional[float] = None) -> _T:
        """The next message; see `orchestrator.Input.receive`."""
        message: _T = self._input.decoded(await self._next(timeout))
        return message

    async def receive_envelope(self, timeout: Optional[float] = None) -> Envelope[_T]:
        """The same, with who sent it and how many were missed."""
        return self._input.envelope(await self._next(timeout))

    def try_receive(self) -> Optional[_T]:
        """The next message, if one has arrived."""
        return self._input.try_receive()

    async def __aiter__(self) -> AsyncIterator[_T]:
        """The messages, one after the other, until the program was asked to stop or the runtime is
        closed."""
        while True:
            try:
                arrival = await self._next(None)
            except (Stopped, Closed):
                return
            yield self._input.decoded(arrival)

    def close(self) -> None:
        """Takes no more messages."""
        self._input.close()

    async def _next(self, timeout: Optional[float]) -> Arrival:
        await self._turn.pass_on()
        source = self._input
        bell = source._end.arrived
        return await bell.until_async(source.locked_next, timeout, source.in_vain)


class Runtime:
    """An instance's connection to its daemon; see `orchestrator.Runtime`. Made by `connect`."""

    def __init__(self, runtime: blocking.Runtime) -> None:
        self._runtime = runtime
        self._bell = runtime._link.progress
        self._signals: Set[int] = set()

    def output(self, cls: Type[_T], stamped: bool = False) -> Output[_T]:
        """Declares that this program sends messages of a type; see `orchestrator.Runtime.output`."""
        return Output(self._runtime.output(cls, stamped))

    def input(self, cls: Type[_T], window: int = DEFAULT_WINDOW) -> Input[_T]:
        """Declares that this program takes messages of a type."""
        return Input(self._runtime.input(cls, window))

    @overload
    def client(self, request: Type[_T], reply: Type[_R]) -> Client[_T, _R]: ...

    @overload
    def client(self, request: Type[_T], reply: object) -> Client[_T, Any]: ...

    def client(self, request: Type[_T], reply: Any) -> Any:
        """Declares that this program calls services; see `orchestrator.Runtime.client`."""
        return Client(self._runtime.client(request, reply))

    @overload
    def service(
        self, request: Type[_T], reply: Type[_R], at_once: int = AT_ONCE
    ) -> Service[_T, _R]: ...

    @overload
    def service(
        self, request: Type[_T], reply: object, at_once: int = AT_ONCE
    ) -> Service[_T, Any]: ...

    def service(self, request: Type[_T], reply: Any, at_once: int = AT_ONCE) -> Any:
        """Declares that this program answers calls; see `orchestrator.Runtime.service`."""
        return Service(self._runtime.service(request, reply, at_once))

    def ready(self) -> None:
        """Says that this program is ready."""
        self._runtime.ready()

    @property
    def instance_id(self) -> UUID:
        """The instance that this program is."""
        return self._runtime.instance_id

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._runtime.is_connected

    @property
    def last_error(self) -> Optional[str]:
        """Why the connection was lost, or could not be made again, the last time."""
        return self._runtime.last_error

    async def wait_connected(self, timeout: Optional[float] = None) -> None:
        """Waits until there is a connection."""
        connected = self._runtime.locked_connected
        await self._bell.until_async(connected, timeout, "no connection")

    async def flush(self, timeout: Optional[float] = None) -> None:
        """Waits until the kernel has taken everything that was sent."""
        flushing = self._runtime.flushing()
        await self._bell.until_async(flushing, timeout, "not everything was sent")

    async def close(self, timeout: float = 5.0) -> None:
        """Ends the connection; see `orchestrator.Runtime.close`."""
        loop = asyncio.get_running_loop()
        while self._signals:
            loop.remove_signal_handler(self._signals.pop())
        await loop.run_in_executor(None, self._runtime.close, timeout)

    @property
    def stop_requested(self) -> bool:
        """Whether this program was asked to stop."""
        return self._runtime.stop_requested

    def request_stop(self) -> None:
        """Asks this program to stop; see `orchestrator.Runtime.request_stop`."""
        self._runtime.request_stop()

    def stop_on(self, *numbers: int) -> None:
        """Makes these signals, `SIGTERM` and `SIGINT` if none are given, call `request_stop`, once:
        a second one, or one after `close`, ends the program. Only in the main thread."""
        loop = asyncio.get_running_loop()
        for number in numbers or (signals.SIGTERM, signals.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
            self._signals.add(number)

    def _on_signal(self, number: int) -> None:
        self._signals.discard(number)
        asyncio.get_running_loop().remove_signal_handler(number)
        self.request_stop()

    async def start(
        self,
        instance: str,
        priority: Optional[Priority] = None,
        timeout: Optional[float] = None,
    ) -> UUID:
        """Starts an instance; see `orchestrator.Runtime.start`."""
        asking = self._runtime.asking(StartRequest(str(instance), priority), StartedReply)
        reply = await self._bell.until_async(asking, timeout, UNANSWERED)
        return UUID(bytes=reply.id_bytes)

    async def stop(self, instance: str, timeout: Optional[float] = None) -> UUID:
        """Stops an instance; see `orchestrator.Runtime.stop`."""
        asking = self._runtime.asking(StopRequest(str(instance)), StoppedReply)
        reply = await self._bell.until_async(asking, timeout, UNANSWERED)
        return UUID(bytes=reply.id_bytes)

    async def list(self, timeout: Optional[float] = None) -> List[RuntimeInfo]:
        """All instances, the oldest first; see `orchestrator.Runtime.list`."""
        asking = self._runtime.asking(ListRequest(), ListReply)
        return (await self._bell.until_async(asking, timeout, UNANSWERED)).instances


class _Turn:
    """Lets other tasks have their turn now and then, also if nothing has to be waited for."""

    def __init__(self) -> None:
        self._passed = 0

    async def pass_on(self) -> None:
        self._passed += 1
        if self._passed >= _TURN:
            self._passed = 0
            await asyncio.sleep(0)


class Connecting:
    """What `connect` gives: `async with` it, or `await` it and close the runtime yourself."""

    def __init__(self, connect: Callable[[], blocking.Runtime]) -> None:
        self._connect = connect
        self._runtime: Optional[Runtime] = None

    async def __aenter__(self) -> Runtime:
        loop = asyncio.get_running_loop()
        self._runtime = Runtime(await loop.run_in_executor(None, self._connect))
        return self._runtime

    def __await__(self) -> Generator[Any, None, Runtime]:
        return self.__aenter__().__await__()

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._runtime is not None:
            await self._runtime.close()


def connect() -> Connecting:
    """Connects to the daemon that started this program; see `orchestrator.Runtime.connect`."""
    return Connecting(blocking.Runtime.connect)


def connect_to(path: str) -> Connecting:
    """Connects to the instance socket at this path."""
    return Connecting(lambda: blocking.Runtime.connect_to(path))
