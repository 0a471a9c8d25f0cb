"""Answering calls of a daemon that the test plays."""

import gc
import threading
from typing import Any, Union

from doubles import CLIENT, Double, Doubled, given, say
from played import SOON_S, Beside, Number, Peer, Played

from orchestrator import (
    Closed,
    EncodeError,
    ReplyNotSent,
    Runtime,
    Service,
    ServiceFailed,
    TimedOut,
)
from orchestrator.call_frames import (
    MAX_FAILURE,
    Answer,
    BadRequestFailure,
    CallFailed,
    CallFailure,
    CallFrame,
    CallReply,
    Cancel,
    FailedFailure,
)


class Services(Played):
    def service(self, at_once: int = 8) -> "tuple[Runtime, Peer, Service[Double, Doubled]]":
        runtime, peer = self.begin()
        doubles = runtime.service(Double, Doubled, at_once)
        self.assertEqual(peer.end_of_calls().at_once, at_once)
        return runtime, peer, doubles

    def answer(self, peer: Peer, id: int) -> Union[bytes, CallFailure]:
        """The next answer, which has to be to this call."""
        answer = peer.calls(Answer)
        self.assertEqual((answer.channel, answer.id), (CLIENT, id))
        it = answer.answer
        return it.payload if isinstance(it, CallReply) else it.failure

    def test_replies_and_failures(self) -> None:
        _, peer, doubles = self.service()
        self.assertEqual(doubles.at_once, 8)
        self.assertIsNone(doubles.try_receive())
        with self.assertRaisesRegex(TimedOut, "no call of type double within"):
            doubles.receive(timeout=0.01)
        say(peer, *[given(id, id * 10, timeout_ms=50_000) for id in range(1, 5)])
        calls = [doubles.receive(SOON_S) for _ in range(4)]
        self.assertEqual([call.request.value for call in calls], [10, 20, 30, 40])
        self.assertTrue(0 < calls[0].left_s <= 50, calls[0].left_s)
        calls[3].reply(Doubled(80))
        self.assertEqual(self.answer(peer, 4), b"\x50")
        calls[0].fail("I don't double 10")
        self.assertEqual(self.answer(peer, 1), FailedFailure("I don't double 10"))
        calls[1].refuse("odd")
        self.assertEqual(self.answer(peer, 2), BadRequestFailure("odd"))
        calls[2].fail("ä" * MAX_FAILURE)
        self.assertEqual(self.answer(peer, 3), FailedFailure("ä" * (MAX_FAILURE // 2)))
        with self.assertRaisesRegex(ValueError, "has an answer already"):
            calls[0].reply(Doubled(1))
        with self.assertRaisesRegex(ValueError, "has an answer already"):
            calls[0].fail("x")

    def test_what_is_no_request_is_refused(self) -> None:
        _, peer, doubles = self.service()
        wrong = [
            CallFrame(CLIENT, id, 1000, data) for id, data in enumerate([b"", b"\1", b"\1\0\0"])
        ]
        say(peer, *wrong, given(9, 1))
        self.assertEqual(doubles.receive(SOON_S).request, Double(1))
        for id in range(3):
            refused = self.answer(peer, id)
            self.assertIsInstance(refused, BadRequestFailure)

    def test_a_reply_that_does_not_fit_is_told_to_both(self) -> None:
        _, peer, doubles = self.service()
        say(peer, given(1, 1))
        with self.assertRaisesRegex(EncodeError, "Doubled.value: -1"):
            doubles.receive(SOON_S).reply(Doubled(-1))
        why = self.answer(peer, 1)
        self.assertEqual(why, FailedFailure("its reply can't be encoded, or is too long"))

    def test_a_call_that_is_left_has_failed(self) -> None:
        _, peer, doubles = self.service()
        say(peer, *[given(id, id) for id in range(1, 4)])
        with self.assertRaises(ZeroDivisionError), doubles.receive(SOON_S):
            raise ZeroDivisionError
        self.assertEqual(self.answer(peer, 1), FailedFailure("it gave no answer"))
        call: Any = doubles.receive(SOON_S)
        del call
        gc.collect()
        self.assertEqual(self.answer(peer, 2), FailedFailure("it gave no answer"))
        with doubles.receive(SOON_S) as call:
            call.reply(Doubled(6))
        self.assertEqual(self.answer(peer, 3), b"\6")

    def test_it_is_told_that_nobody_waits(self) -> None:
        _, peer, doubles = self.service()
        say(peer, given(1, 1), given(2, 2))
        first, second = doubles.receive(SOON_S), doubles.receive(SOON_S)
        with self.assertRaises(TimedOut):
            first.wait_cancelled(timeout=0.01)
        waiting = Beside(lambda: first.wait_cancelled(SOON_S))
        say(peer, Cancel(CLIENT, 1), Cancel(CLIENT, 77))
        waiting.result()
        self.assertEqual((first.is_cancelled, second.is_cancelled), (True, False))
        # Only with an answer its place is free.
        first.reply(Doubled(2))
        self.assertEqual(self.answer(peer, 1), b"\2")

    def test_closed_or_forgotten_it_answers_with_a_failure(self) -> None:
        runtime, peer, doubles = self.service()
        other = runtime.service(Number, Doubled)
        peer.end_of_calls()
        told = FailedFailure("the program answers no more calls of this type")
        say(peer, given(1, 1), given(2, 2))
        call = doubles.receive(SOON_S)
        doubles.close()
        self.assertEqual(self.answer(peer, 2), told)
        say(peer, given(3, 3))
        self.assertEqual(self.answer(peer, 3), told)
        with self.assertRaisesRegex(Closed, "the service double was closed"):
            doubles.receive()
        call.reply(Doubled(2))
        self.assertEqual(self.answer(peer, 1), b"\2")
        del other
        gc.collect()
        say(peer, CallFrame(CLIENT - 1, 4, 1000, b"\1"))
        answer = peer.calls(Answer)
        self.assertEqual(answer, Answer(CLIENT - 1, 4, CallFailed(told)))

    def test_a_connection_that_breaks_takes_its_calls_along(self) -> None:
        _, peer, doubles = self.service(at_once=2)
        say(peer, given(1, 1), given(2, 2))
        first = doubles.receive(SOON_S)
        waiting = Beside(lambda: first.wait_cancelled(SOON_S))
        peer.close()
        waiting.result()
        peer = self.again()
        peer.end_of_calls()
        # The ids are those of the new connection; what nobody had taken is gone.
        say(peer, given(1, 10), given(2, 20))
        with self.assertRaisesRegex(ReplyNotSent, "whoever waits for the reply"):
            first.reply(Doubled(2))
        second = doubles.receive(SOON_S)
        self.assertEqual(second.request.value, 10)
        second.reply(Doubled(20))
        self.assertEqual(self.answer(peer, 1), b"\x14")
        self.assertEqual(doubles.receive(SOON_S).request.value, 20)

    def test_a_loop_ends_when_the_program_is_to_stop(self) -> None:
        runtime, peer, doubles = self.service()
        say(peer, given(1, 1))
        values = []
        for call in doubles:
            values.append(call.request.value)
            runtime.request_stop()
            # What need not wait goes on to work.
            call.reply(Doubled(2))
        self.assertEqual(values, [1])
        self.assertEqual(self.answer(peer, 1), b"\2")

    def serve(self, threads: int) -> None:
        runtime, peer, doubles = self.service()
        lock, running, most = threading.Lock(), 0, 0
        together = threading.Barrier(threads)

        def double(request: Double) -> Doubled:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            if request.value < threads:
                together.wait(SOON_S)
            with lock:
                running -= 1
            if request.value == 13:
                raise ServiceFailed("unlucky")
            if request.value == 14:
                raise LookupError("fourteen")
            return Doubled(-1 if request.value == 15 else request.value * 2)

        serving = Beside(lambda: doubles.serve(double, threads))
        answers: "dict[int, Any]" = {}
        with self.assertLogs("orchestrator", "ERROR") as logged:
            # The first ones wait for each other; then one comes after the other.
            say(peer, *[given(value, value) for value in range(threads)])
            for value in range(threads, 16 + threads):
                answer = peer.calls(Answer)
                answers[answer.id] = answer.answer
                if value < 16:
                    say(peer, given(value, value))
            runtime.request_stop()
            serving.result()
        self.assertEqual(most, threads)
        for value in range(13):
            self.assertEqual(answers[value], CallReply(bytes([value * 2])))
        self.assertEqual(answers[13], CallFailed(FailedFailure("unlucky")))
        self.assertEqual(answers[14], CallFailed(FailedFailure("LookupError: fourteen")))
        self.assertIn("can't be encoded", answers[15].failure.reason)
        self.assertIn("fourteen", logged.output[0])
        self.assertEqual(len(logged.output), 2)
        say(peer, given(99, 1))
        self.assertIn("no more calls", str(self.answer(peer, 99)))

    def test_it_serves_in_one_thread(self) -> None:
        self.serve(1)

    def test_it_serves_in_several_threads(self) -> None:
        self.serve(4)

    def test_what_nobody_waits_for_is_passed_over(self) -> None:
        runtime, peer, doubles = self.service()
        served = []
        say(peer, given(1, 1), Cancel(CLIENT, 1), given(2, 2), given(3, 3))

        def double(request: Double) -> Doubled:
            served.append(request.value)
            return Doubled(0)

        end = doubles._end
        end.arrived.until(lambda: len(end._given) == 3 or None, SOON_S, "they did not come")
        # Its time is over.
        end._given[2].deadline = 0.0
        serving = Beside(lambda: doubles.serve(double))
        self.assertEqual(self.answer(peer, 1), FailedFailure("cancelled"))
        self.assertEqual(self.answer(peer, 2), FailedFailure("cancelled"))
        self.assertEqual(self.answer(peer, 3), b"\0")
        runtime.request_stop()
        serving.result()
        self.assertEqual(served, [3])
