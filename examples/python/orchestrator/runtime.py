"""The connection of this program to the daemon that started it."""

from __future__ import annotations

import os
import signal as signals
import threading
import weakref
from types import FrameType, TracebackType
from typing import Any, Callable, Dict, List, Optional, Type, TypeVar, Union, overload
from uuid import UUID

from .bell import Attempt
from .client import Client
from .connection import open_connection, run
from .control import (
    ListReply,
    ListRequest,
    Priority,
    RuntimeInfo,
    RuntimeReply,
    RuntimeRequest,
    StartedReply,
    StartRequest,
    StoppedReply,
    StopRequest,
)
from .errors import ConnectError, NotStartedByOrchestrator, RequestError
from .input import Input
from .link import Link
from .output import Output
from .questions import Question
from .service import AT_ONCE, Service

_T = TypeVar("_T")
_R = TypeVar("_R")
_Handler = Union[Callable[[int, Optional[FrameType]], Any], int]

ENV_SOCKET = "ORCHESTRATOR_IPC_SOCKET"
"""The variable that holds the path of the instance's socket."""
ENV_INSTANCE = "ORCHESTRATOR_INSTANCE_ID"
"""The variable that holds the instance's id."""
UNANSWERED = "the request may still be carried out; no answer"
"""What is said of a request that was not answered in time."""
DEFAULT_WINDOW = 1024
"""How many messages may wait in an input, unless it says otherwise."""


class Runtime:
    """An instance's connection to its daemon.

    >>> with Runtime.connect() as runtime:
    ...     wheel = runtime.input(Wheel)
    ...     speed = runtime.output(Speed)
    ...     runtime.ready()
    ...     for turn in wheel:
    ...         speed.send(Speed(turn.turns_per_s * 0.31))

    When the daemon goes away, the runtime stays: a thread in the background connects again, after
    10 ms at first and every second at last, and declares everything again. Meanwhile receiving
    waits, requests and calls under way fail, and calls that are made then wait. Where a link with
    the policy `block` takes an output's messages, none of them is lost, and a receiver that lives
    on gets each of them once and in order. Without such a link sending raises `Disconnected`, and
    what the daemon had not delivered is lost; the next daemon reports how many.

    One connection per program: all messages for an instance go to its newest connection. Connect
    after a fork, not before. Use `with`, or `close` it: what the kernel has not taken when the
    program ends is lost.
    """

    def __init__(self, path: str) -> None:
        self._before: Dict[int, _Handler] = {}
        """What signals did before they were requests to stop."""
        connection = open_connection(path)
        self._link = Link(path, connection.instance)
        self._link.attach(connection.socket, connection.instance)
        self._thread = threading.Thread(
            target=run, args=(self._link, connection), name="orchestrator", daemon=True
        )
        self._thread.start()
        # The thread ends when nobody can use the runtime any more.
        self._finalizer = weakref.finalize(self, _abandon, self._link)

    @classmethod
    def connect(cls) -> "Runtime":
        """Connects to the daemon that started this program, as its environment says.

        Raises `NotStartedByOrchestrator`, `Refused` with the daemon's reason, or another
        `ConnectError`, after 10 s at the latest.
        """
        path = os.environ.get(ENV_SOCKET)
        if not path:
            raise NotStartedByOrchestrator(
                f"{ENV_SOCKET} is not set; this program has to be started by an orchestrator: "
                "orchestrator-cli runtime add PROGRAM"
            )
        runtime = cls(path)
        expected = os.environ.get(ENV_INSTANCE)
        try:
            if expected and UUID(expected) != runtime.instance_id:
                raise ConnectError(
                    f"the daemon says this is instance {runtime.instance_id}, the environment says "
                    f"{expected}"
                )
        except ValueError:
            runtime.close(timeout=0)
            raise ConnectError(f"{expected!r} in {ENV_INSTANCE} is no id of an instance") from None
        except ConnectError:
            runtime.close(timeout=0)
            raise
        return runtime

    @classmethod
    def connect_to(cls, path: str) -> "Runtime":
        """Connects to the instance socket at this path. Raises as `connect` does."""
        return cls(path)

    # Types

    def output(self, cls: Type[_T], stamped: bool = False) -> Output[_T]:
        """Declares that this program sends messages of a type, once for each type. With `stamped` each
        message says when it was sent, in eight bytes: see `Envelope.sent_ns`, and recordings.

        Raises `SchemaError` if it is no message, `DeclareError` if it is an output already.
        """
        return Output(self._link, self, cls, stamped)

    def input(self, cls: Type[_T], window: int = DEFAULT_WINDOW) -> Input[_T]:
        """Declares that this program takes messages of a type, once for each type, and that at
        most `window` of them wait in it. A small window leaves more of them to the daemon and the
        link's policy; choose one for large messages, since it does not count bytes.

        Keep what is returned for as long as the messages are wanted. Raises as `output` does, and
        `DeclareError` if the forms that the type reads are not of one name, not all different, or
        more than 15; see `message`.
        """
        return Input(self._link, self, cls, window)

    @overload
    def client(self, request: Type[_T], reply: Type[_R]) -> Client[_T, _R]: ...

    @overload
    def client(self, request: Type[_T], reply: object) -> Client[_T, Any]: ...

    def client(self, request: Type[_T], reply: Any) -> Any:
        """Declares that this program calls services with requests of one type, a message, which
        they answer with another: a dataclass or anything else that can be part of a message. A link
        of the request's name leads to each service that may be called.

        Raises `SchemaError` if the types can't be that, `DeclareError` if the request is a client
        or an output already.
        """
        return Client(self._link, self, request, reply)

    @overload
    def service(
        self, request: Type[_T], reply: Type[_R], at_once: int = AT_ONCE
    ) -> Service[_T, _R]: ...

    @overload
    def service(
        self, request: Type[_T], reply: object, at_once: int = AT_ONCE
    ) -> Service[_T, Any]: ...

    def service(self, request: Type[_T], reply: Any, at_once: int = AT_ONCE) -> Any:
        """Declares that this program answers requests of one type with replies of another, and may
        be given `at_once` of them at once, 1 to 1,024. What comes on top waits in the daemon, where
        other services may take it.

        Raises `SchemaError` if the types can't be that, `DeclareError` if the request is a service
        or an input already.
        """
        return Service(self._link, self, request, reply, at_once)

    def ready(self) -> None:
        """Says that this program is ready: it has begun, and does what it is for. For instances
        that were added with `--ready-runtime`; to others it makes no difference. Never waits; if
        there is no connection now, it is said on the next one."""
        self._link.say_ready()

    # The connection

    @property
    def instance_id(self) -> UUID:
        """The instance that this program is."""
        return UUID(bytes=self._link.instance)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._link.is_connected

    @property
    def last_error(self) -> Optional[str]:
        """Why the connection was lost, or could not be made again, the last time."""
        return self._link.writing.last_error

    def wait_connected(self, timeout: Optional[float] = None) -> None:
        """Waits until there is a connection, for `timeout` seconds at most or without a limit.
        Raises `TimedOut`, `Stopped` or `Closed` otherwise."""
        self._link.progress.until(self.locked_connected, timeout, "no connection")

    def locked_connected(self) -> Optional[bool]:
        """Whether there is a connection. Raises if there is no use in waiting."""
        if self._link.is_connected:
            return True
        self._link.locked_check()
        return None

    def flush(self, timeout: Optional[float] = None) -> None:
        """Waits until the kernel has taken everything that was sent, for `timeout` seconds at most
        or without a limit. Raises `Disconnected` if there is no connection or it breaks,
        `TimedOut` or `Closed`."""
        self._link.progress.until(self.flushing(), timeout, "not everything was sent")

    def flushing(self) -> Attempt[bool]:
        """Whether the kernel has taken everything, over the connection of the first attempt."""
        link, since = self._link, -1

        def attempt() -> Optional[bool]:
            nonlocal since
            if since < 0:
                since = link.connection
            link.locked_check_open()
            if not link.is_connected or link.connection != since:
                raise link.disconnected()
            return None if link.locked_is_unsent() else True

        return attempt

    def close(self, timeout: float = 5.0) -> None:
        """Ends the connection, after the kernel has taken what was sent, if it does so within
        `timeout` seconds. Whoever waits gets `Closed`. The end of a `with` does this too."""
        link = self._link
        self._give_back_signals()
        if link.is_closed:
            return
        if timeout > 0:
            with link.lock:
                link.locked_acknowledge()
            try:
                self.flush(timeout)
            except Exception:
                # What could not be sent is lost, as it is when the program ends.
                pass
        self._finalizer()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    # Stopping

    @property
    def stop_requested(self) -> bool:
        """Whether this program was asked to stop, see `stop_on` and `request_stop`."""
        return self._link.is_stopping

    def request_stop(self) -> None:
        """Asks this program to stop: loops over inputs end, and what waits raises `Stopped`. What
        need not wait goes on to work, so that a last message can be sent. May be called from any
        thread, and from a signal's handler."""
        self._link.is_stopping = True
        self._link.rouse()

    def stop_on(self, *numbers: int) -> None:
        """Makes these signals, `SIGTERM` and `SIGINT` if none are given, call `request_stop`
        instead of ending the program at once. A second one does what it did before, and so does
        one after `close`. A daemon that stops an instance sends it SIGTERM, and SIGKILL some
        seconds later.

        Only in the main thread, as signal(2) has it in Python.
        """
        for number in numbers or (signals.SIGTERM, signals.SIGINT):
            before = signals.signal(number, self._on_signal)
            if number not in self._before:
                # None is a handler that was not set by Python.
                self._before[number] = signals.SIG_DFL if before is None else before

    def _on_signal(self, number: int, _frame: Optional[FrameType]) -> None:
        signals.signal(number, self._before.pop(number, signals.SIG_DFL))
        self.request_stop()

    def _give_back_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            while self._before:
                number, before = self._before.popitem()
                if signals.getsignal(number) == self._on_signal:
                    signals.signal(number, before)

    # Privileged requests

    def start(
        self,
        instance: str,
        priority: Optional[Priority] = None,
        timeout: Optional[float] = None,
    ) -> UUID:
        """Starts an instance, unless it runs: named by its id, a unique beginning of that, or its
        name. Without a priority it keeps the one it had. Returns its id.

        Only for privileged instances. Raises `RequestError` with the daemon's reason,
        `Disconnected` without a connection, `TimedOut`, `Stopped` or `Closed`.
        """
        reply = self._ask(StartRequest(str(instance), priority), StartedReply, timeout)
        return UUID(bytes=reply.id_bytes)

    def stop(self, instance: str, timeout: Optional[float] = None) -> UUID:
        """Stops an instance, unless it does not run, and waits until it has stopped. As `start`."""
        reply = self._ask(StopRequest(str(instance)), StoppedReply, timeout)
        return UUID(bytes=reply.id_bytes)

    def list(self, timeout: Optional[float] = None) -> "List[RuntimeInfo]":
        """All instances, the oldest first. As `start`."""
        return self._ask(ListRequest(), ListReply, timeout).instances

    def _ask(self, request: RuntimeRequest, kind: Type[_T], timeout: Optional[float]) -> _T:
        return self._link.progress.until(self.asking(request, kind), timeout, UNANSWERED)

    def asking(self, request: RuntimeRequest, kind: Type[_T]) -> Attempt[_T]:
        """Sends a request with the first attempt, then looks for an answer of this kind."""
        link = self._link
        question: Optional[Question] = None

        def attempt() -> Optional[_T]:
            nonlocal question
            if question is None:
                question = link.locked_ask(request)
            if question.error is not None:
                raise question.error
            if question.reply is not None:
                return _of_kind(question.reply, kind)
            link.locked_check()
            return None

        return attempt

    def __repr__(self) -> str:
        return f"Runtime({self.instance_id})"


def _of_kind(reply: RuntimeReply, kind: Type[_T]) -> _T:
    if not isinstance(reply, kind) or len(getattr(reply, "id_bytes", bytes(16))) != 16:
        raise RequestError(0, "the daemon gave an answer of the wrong kind", [])
    return reply


def _abandon(link: Link) -> None:
    """Without the lock: it may be the garbage collector that calls, in whatever thread."""
    link.is_closed = True
    link.rouse()
