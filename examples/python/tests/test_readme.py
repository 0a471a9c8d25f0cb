"""What the page of this package shows works."""

import asyncio
import contextlib
import os
import queue
import re
import types
from pathlib import Path
from typing import Any
from unittest import mock

from doubles import failure, reply, say
from played import SOON_S, Beside, Peer, Played

from orchestrator import CallError, Runtime, call_errors, encode, schema_of
from orchestrator.call_frames import (
    Answer,
    CallFailed,
    CallFrame,
    CallReply,
    FailedFailure,
    NoLinkFailure,
)
from orchestrator.frames import DeclareFrame, FormFrame, Message, ReadyFrame, Recognise, Takes

_PAGE = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def shown() -> Any:
    """All that the page defines, and what it prints."""
    module = types.ModuleType("readme")
    with mock.patch.dict("sys.modules", readme=module):
        for block in re.findall(r"```python\n(.*?)```", _PAGE, re.DOTALL):
            exec(compile(block, "README.md", "exec"), module.__dict__)
    return module


class Page(Played):
    def setUp(self) -> None:
        super().setUp()
        self.page: Any = shown()
        self.printed: "queue.Queue[Any]" = queue.Queue()
        self.page.print = lambda *what: self.printed.put(what)
        self.runtimes: "queue.Queue[Runtime]" = queue.Queue()
        environment = {"ORCHESTRATOR_IPC_SOCKET": self.path, "ORCHESTRATOR_INSTANCE_ID": ""}
        for patch in (
            mock.patch.dict(os.environ, environment),
            # Signals are for the main thread, which is the test's.
            mock.patch.object(Runtime, "stop_on", lambda runtime: self.runtimes.put(runtime)),
        ):
            patch.start()
            self.addCleanup(patch.stop)

    def running(self, work: Any) -> "tuple[Beside, Peer]":
        working = Beside(work)
        return working, self.again()

    def stop(self, working: Beside) -> None:
        self.runtimes.get(timeout=SOON_S).request_stop()
        working.result()

    def test_publish(self) -> None:
        working, peer = self.running(lambda: self.page.publish([0.5, 2.0]))
        peer.output()
        peer.expect(ReadyFrame)
        wheels = [encode(self.page.Wheel(turns)) for turns in (0.5, 2.0)]
        self.assertEqual(peer.payloads(2), wheels)
        working.result()

    def test_subscribe(self) -> None:
        working, peer = self.running(self.page.subscribe)
        self.assertEqual(peer.input().window, 64)
        peer.send(Message(0, encode(self.page.Wheel(0.25))))
        self.assertEqual(self.printed.get(timeout=SOON_S), (0.25,))
        self.stop(working)

    def test_serve(self) -> None:
        working, peer = self.running(self.page.serve)
        channel = peer.end_of_calls().channel
        table: "list[tuple[int, Any]]" = [
            (2, CallReply(b"\6")),
            (0, CallFailed(FailedFailure("by zero"))),
        ]
        for divisor, expected in table:
            say(peer, CallFrame(channel, 1, 1000, encode(self.page.Divide(7, divisor))))
            self.assertEqual(peer.calls(Answer), Answer(channel, 1, expected))
        self.stop(working)

    def test_call(self) -> None:
        for answer, result in [(None, 0), (b"\6", 3)]:
            working, peer = self.running(self.page.call)
            peer.end_of_calls()
            call = peer.calls(CallFrame)
            say(peer, reply(call, answer) if answer else failure(call, NoLinkFailure()))
            self.assertEqual(working.result(), result)
        self.assertEqual(self.printed.get(timeout=SOON_S)[0], "not done")

    def test_older_forms(self) -> None:
        runtime, peer = self.begin()
        masses = runtime.input(self.page.Mass)
        peer.takes_stamps()
        self.assertEqual(peer.expect(Takes).schema, schema_of(self.page.MassInGrams).canonical)
        peer.expect(Recognise)
        peer.expect(DeclareFrame)
        peer.send(FormFrame(0, 1), Message(0, encode(self.page.MassInGrams(500.0))))
        self.assertEqual(masses.receive(SOON_S), self.page.Mass(0.5))

    def test_asyncio(self) -> None:
        tasks: "queue.Queue[Any]" = queue.Queue()

        async def main() -> None:
            task = asyncio.ensure_future(self.page.relay())
            tasks.put((asyncio.get_running_loop(), task))
            with contextlib.suppress(asyncio.CancelledError):
                await task

        working, peer = self.running(lambda: asyncio.run(main()))
        peer.end_of_calls()
        peer.input()
        peer.send(Message(0, encode(self.page.Wheel(9.0))))
        call = peer.calls(CallFrame)
        self.assertEqual(call.payload, encode(self.page.Divide(9, 2)))
        say(peer, reply(call, b"\x08"))
        loop, task = tasks.get(timeout=SOON_S)
        loop.call_soon_threadsafe(task.cancel)
        working.result()

    def test_the_table_of_errors(self) -> None:
        told = {}
        for errors, _, may in re.findall(r"^\| (`.*?) \| (.*) \| (.*) \|$", _PAGE, re.MULTILINE):
            for name in re.findall(r"`(\w+)`", errors):
                told[name] = may
        ours = {
            name: "yes" if error.may_have_had_effect else "no"
            for name, error in vars(call_errors).items()
            if isinstance(error, type) and issubclass(error, CallError) and error is not CallError
        }
        ours["CallTimedOut"] = "if `given`"
        self.assertEqual({name: told.get(name) for name in ours}, ours)
