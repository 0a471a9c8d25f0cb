"""Calls with asyncio, where they differ: waiting, and what is cancelled."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Callable
from unittest import mock

from doubles import CLIENT, Double, Doubled, given, reply, say
from played import SOON_S, Peer, Played
from test_aio import beside, soon

from orchestrator import (
    CallInterrupted,
    NoAnswer,
    NotConnected,
    ServiceFailed,
    Stopped,
    TimedOut,
    aio,
    aio_calls,
)
from orchestrator.call_frames import (
    Answer,
    BadRequestFailure,
    CallFailed,
    CallFrame,
    CallReply,
    Cancel,
    FailedFailure,
)


class AioCalls(Played):
    def run_with(self, test: Callable[["aio.Runtime", Peer], Awaitable[None]]) -> None:
        async def main() -> None:
            greeting = asyncio.ensure_future(beside(self.again))
            async with aio.connect_to(self.path) as runtime:
                await soon(test(runtime, await greeting))

        asyncio.run(main())

    def test_many_in_flight(self) -> None:
        async def test(runtime: "aio.Runtime", peer: Peer) -> None:
            double = runtime.client(Double, Doubled)
            await beside(peer.end_of_calls)
            flights = [asyncio.ensure_future(double.call(Double(n))) for n in range(200)]
            calls = [await beside(lambda: peer.calls(CallFrame)) for _ in flights]
            for call in reversed(calls):
                say(peer, reply(call, b"\7"))
            self.assertEqual(await asyncio.gather(*flights), [Doubled(7)] * 200)

        self.run_with(test)

    def test_a_coroutine_that_is_cancelled_cancels_its_call(self) -> None:
        async def test(runtime: "aio.Runtime", peer: Peer) -> None:
            double = runtime.client(Double, Doubled)
            await beside(peer.end_of_calls)
            calling = asyncio.ensure_future(double.call(Double(1), SOON_S))
            call = await beside(lambda: peer.calls(CallFrame))
            calling.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await calling
            cancel = await beside(lambda: peer.calls(Cancel))
            self.assertEqual(cancel, Cancel(CLIENT, call.id))
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(double.call(Double(2), SOON_S), 0.01)
            call = await beside(lambda: peer.calls(CallFrame))
            self.assertEqual((await beside(lambda: peer.calls(Cancel))).id, call.id)

        self.run_with(test)

    def test_no_answer_and_no_connection(self) -> None:
        async def test(runtime: "aio.Runtime", peer: Peer) -> None:
            double = runtime.client(Double, Doubled)
            await beside(peer.end_of_calls)
            with mock.patch.object(aio_calls, "GRACE_S", 0.01), self.assertRaises(NoAnswer):
                await double.call(Double(1), deadline=0.01)
            self.listener.close()
            calling = asyncio.ensure_future(double.call(Double(2), SOON_S))
            await beside(lambda: (peer.calls(CallFrame), peer.calls(Cancel)))
            await beside(lambda: peer.calls(CallFrame))
            peer.close()
            with self.assertRaises(CallInterrupted):
                await calling
            with self.assertRaises(NotConnected):
                await double.call(Double(3), deadline=0.05)

        self.run_with(test)

    def test_calls_one_by_one(self) -> None:
        async def test(runtime: "aio.Runtime", peer: Peer) -> None:
            doubles = runtime.service(Double, Doubled, at_once=4)
            self.assertEqual((await beside(peer.end_of_calls)).at_once, doubles.at_once)
            self.assertIsNone(doubles.try_receive())
            with self.assertRaises(TimedOut):
                await doubles.receive(timeout=0.01)
            say(peer, *[given(id, id) for id in range(1, 4)])
            call = await doubles.receive()
            self.assertEqual((call.request, call.is_answered), (Double(1), False))
            self.assertTrue(0 < call.left_s <= 60)
            await call.reply(Doubled(2))
            self.assertTrue(call.is_answered)
            (await doubles.receive()).fail("no")
            async for call in doubles:
                waiting = asyncio.ensure_future(call.wait_cancelled())
                say(peer, Cancel(CLIENT, 3))
                await waiting
                self.assertTrue(call.is_cancelled)
                call.refuse("late")
                runtime.request_stop()
            answers = [await beside(lambda: peer.calls(Answer)) for _ in range(3)]
            no, late = CallFailed(FailedFailure("no")), CallFailed(BadRequestFailure("late"))
            told = [CallReply(b"\2"), no, late]
            self.assertEqual([answer.answer for answer in answers], told)

        self.run_with(test)

    def test_it_serves(self) -> None:
        async def test(runtime: "aio.Runtime", peer: Peer) -> None:
            doubles = runtime.service(Double, Doubled)
            await beside(peer.end_of_calls)
            begun: "asyncio.Queue[int]" = asyncio.Queue()
            go, running, most = asyncio.Event(), 0, 0

            async def double(request: Double) -> Doubled:
                nonlocal running, most
                running += 1
                most = max(most, running)
                begun.put_nowait(request.value)
                try:
                    await go.wait()
                finally:
                    running -= 1
                if request.value == 2:
                    raise ServiceFailed("two")
                if request.value == 3:
                    raise LookupError("three")
                return Doubled(request.value * 2)

            serving = asyncio.ensure_future(doubles.serve(double, at_once=4))
            say(peer, *[given(id, id) for id in range(1, 10)])
            self.assertEqual([await begun.get() for _ in range(4)], [1, 2, 3, 4])
            # Whom nobody waits for any more is cancelled where it waits.
            say(peer, Cancel(CLIENT, 4))
            answer = await beside(lambda: peer.calls(Answer))
            self.assertEqual(answer, Answer(CLIENT, 4, CallFailed(FailedFailure("cancelled"))))
            self.assertEqual(await begun.get(), 5)
            with self.assertLogs("orchestrator", "ERROR"):
                go.set()
                answers: "dict[int, Any]" = {}
                for _ in range(8):
                    answer = await beside(lambda: peer.calls(Answer))
                    answers[answer.id] = answer.answer
            self.assertEqual(most, 4)
            self.assertEqual(answers.pop(2), CallFailed(FailedFailure("two")))
            self.assertEqual(answers.pop(3), CallFailed(FailedFailure("LookupError: three")))
            for id, it in answers.items():
                self.assertEqual(it, CallReply(bytes([id * 2])))
            # What is at work when the program is to stop is finished; then no more is taken.
            go.clear()
            say(peer, given(20, 20))
            while await begun.get() != 20:
                pass
            runtime.request_stop()
            with self.assertRaises(Stopped):
                await doubles.receive()
            go.set()
            await serving
            answer = await beside(lambda: peer.calls(Answer))
            self.assertEqual(answer, Answer(CLIENT, 20, CallReply(b"\x28")))

        self.run_with(test)

    def test_serving_that_is_cancelled_answers_what_it_has(self) -> None:
        async def test(runtime: "aio.Runtime", peer: Peer) -> None:
            doubles = runtime.service(Double, Doubled)
            await beside(peer.end_of_calls)
            begun = asyncio.Event()

            async def double(request: Double) -> Doubled:
                begun.set()
                await asyncio.Event().wait()
                raise AssertionError

            serving = asyncio.ensure_future(doubles.serve(double, at_once=1))
            say(peer, given(1, 1), given(2, 2))
            await begun.wait()
            serving.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await serving
            answers = [await beside(lambda: peer.calls(Answer)) for _ in range(2)]
            self.assertEqual({answer.id for answer in answers}, {1, 2})
            self.assertTrue(all(isinstance(answer.answer, CallFailed) for answer in answers))
            with self.assertRaises(ValueError):
                await doubles.serve(double, at_once=0)

        self.run_with(test)

    def test_a_function_that_is_no_coroutine_costs_its_call(self) -> None:
        async def test(runtime: "aio.Runtime", peer: Peer) -> None:
            doubles = runtime.service(Double, Doubled)
            await beside(peer.end_of_calls)
            wrong: Any = lambda request: Doubled(1)
            with self.assertLogs("orchestrator", "ERROR"):
                serving = asyncio.ensure_future(doubles.serve(wrong))
                say(peer, given(1, 1))
                answer = await beside(lambda: peer.calls(Answer))
                self.assertIn("TypeError", str(answer))
                runtime.request_stop()
                await serving

        self.run_with(test)
