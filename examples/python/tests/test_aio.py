"""The same with asyncio, where it differs: waiting, turns, and what is cancelled."""

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Callable, TypeVar

from played import SOON_S, Peer, Played

from orchestrator import (
    Closed,
    Disconnected,
    RequestError,
    Stopped,
    TimedOut,
    UInt8,
    aio,
    message,
    unnamed,
)
from orchestrator.control import StartedReply, WireError
from orchestrator.frames import (
    UNLIMITED,
    Failure,
    Grant,
    Message,
    Reply,
    Request,
    Success,
)

_T = TypeVar("_T")


@message("n")
@unnamed
@dataclass
class Number:
    value: UInt8


async def soon(waiting: Awaitable[_T]) -> _T:
    return await asyncio.wait_for(waiting, SOON_S)


async def beside(work: Callable[[], _T]) -> _T:
    """The daemon's side waits in a thread, so that the loop goes on."""
    return await soon(asyncio.get_running_loop().run_in_executor(None, work))


class Aio(Played):
    def run_with(self, test: Callable[["aio.Runtime", Peer], Awaitable[None]]) -> None:
        async def main() -> None:
            greeting = asyncio.ensure_future(beside(self.again))
            async with aio.connect_to(self.path) as runtime:
                await soon(test(runtime, await greeting))

        asyncio.run(main())

    def test_messages(self) -> None:
        async def test(runtime: "aio.Runtime", peer: Peer) -> None:
            source, output = runtime.input(Number), runtime.output(Number)
            await beside(peer.input)
            await beside(peer.output)
            waiting = asyncio.ensure_future(source.receive())
            await asyncio.sleep(0)
            peer.send(Message(0, b"\1"), Message(0, b"\2"), Message(0, b"\3"))
            self.assertEqual(await waiting, Number(1))
            self.assertEqual((await source.receive_envelope()).message, Number(2))
            async for number in source:
                self.assertEqual(number, Number(3))
                break
            with self.assertRaisesRegex(TimedOut, "no message of type n within 0.01 s"):
                await source.receive(timeout=0.01)
            self.assertIsNone(source.try_receive())
            await output.send(Number(4))
            self.assertEqual(await output.send_many([Number(5), Number(6)]), 2)
            await runtime.flush()
            self.assertTrue(output.try_send(Number(7)))
            received = await beside(lambda: messages(peer, 4))
            self.assertEqual(received, [b"\4", b"\5", b"\6", b"\7"])

        self.run_with(test)

    def test_a_cancelled_wait_takes_nothing(self) -> None:
        async def test(runtime: "aio.Runtime", peer: Peer) -> None:
            source, output = runtime.input(Number), runtime.output(Number)
            await beside(peer.input)
            await beside(peer.output)
            waiting = asyncio.ensure_future(source.receive())
            await asyncio.sleep(0)
            waiting.cancel()
            peer.send(Message(0, b"\1"), Grant(1, 0))
            self.assertEqual(await source.receive(), Number(1))
            with self.assertRaises(TimedOut):
                while True:
                    await output.send(Number(0), timeout=0.01)
            sending = asyncio.ensure_future(output.send(Number(9)))
            await asyncio.sleep(0)
            sending.cancel()
            peer.send(Grant(1, UNLIMITED))
            await output.send(Number(8))
            sent: list[bytes] = []
            while sent[-1:] != [b"\x08"]:
                sent += await beside(lambda: messages(peer, 1))
            self.assertNotIn(b"\x09", sent)

        self.run_with(test)

    def test_other_tasks_have_their_turn(self) -> None:
        async def test(runtime: "aio.Runtime", peer: Peer) -> None:
            source = runtime.input(Number)
            await beside(peer.input)
            peer.send(*[Message(0, b"\1")] * 1000)
            turns = 0

            async def other() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            task = asyncio.ensure_future(other())
            for _ in range(1000):
                await source.receive()
            self.assertGreaterEqual(turns, 10)
            task.cancel()

        self.run_with(test)

    def test_stop_and_close(self) -> None:
        async def test(runtime: "aio.Runtime", peer: Peer) -> None:
            source = runtime.input(Number)
            runtime.stop_on(signal.SIGUSR1)
            loop = asyncio.ensure_future(all_of(source))
            waiting = asyncio.ensure_future(source.receive())
            await asyncio.sleep(0)
            threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            self.assertEqual(await loop, [])
            with self.assertRaises(Stopped):
                await waiting
            self.assertTrue(runtime.stop_requested)
            await runtime.close()
            with self.assertRaises(Closed):
                await source.receive()

        self.run_with(test)

    def test_requests(self) -> None:
        async def test(runtime: "aio.Runtime", peer: Peer) -> None:
            id = bytes([7] * 16)
            starting = asyncio.ensure_future(runtime.start("a"))
            request = await beside(lambda: peer.expect(Request))
            peer.send(Reply(request.id, Success(StartedReply(id))))
            self.assertEqual((await starting).bytes, id)
            stopping = asyncio.ensure_future(runtime.stop("a"))
            request = await beside(lambda: peer.expect(Request))
            peer.send(Reply(request.id, Failure(WireError(10, "no", []))))
            with self.assertRaisesRegex(RequestError, "^no$"):
                await stopping
            with self.assertRaises(TimedOut):
                await runtime.list(timeout=0.01)

        self.run_with(test)

    def test_the_connection_comes_back(self) -> None:
        async def test(runtime: "aio.Runtime", peer: Peer) -> None:
            output = runtime.output(Number)
            await beside(peer.output)
            peer.send(Grant(0, UNLIMITED))
            peer.close()
            with self.assertRaises(Disconnected):
                while True:
                    await output.send(Number(1))
            again = asyncio.ensure_future(beside(self.again))
            await runtime.wait_connected()
            await output.send(Number(2))
            peer = await again
            await beside(peer.output)
            self.assertEqual(await beside(lambda: messages(peer, 1)), [b"\2"])

        self.run_with(test)


async def all_of(source: "aio.Input[Any]") -> list[Any]:
    return [number async for number in source]


def messages(peer: Peer, count: int) -> list[bytes]:
    """The payloads of the next messages; other frames between them are passed over."""
    found: list[bytes] = []
    while len(found) < count:
        frame = peer.next()
        if isinstance(frame, Message):
            found.append(frame.payload)
    return found
