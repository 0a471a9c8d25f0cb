"""Calling a service behind a daemon that the test plays, and a daemon that is hostile."""

import os
from functools import partial
from typing import Any
from unittest import mock

from doubles import CLIENT, Double, Doubled, failure, given, reply, say
from played import SOON_S, Beside, Number, Other, Peer, Played

import orchestrator
from orchestrator import (
    CallError,
    CallTimedOut,
    Client,
    Closed,
    DeclareError,
    EncodeError,
    Mismatched,
    NotConnected,
    ReplyNotDecoded,
    RequestNotEncoded,
    Runtime,
    SchemaError,
    Stopped,
    TooManyCalls,
    UInt8,
    client,
    connection,
    encode,
    schema_of,
)
from orchestrator.call_frames import (
    MAX_CALL,
    MAX_CALL_TIMEOUT_MS,
    MAX_CALLS,
    Answer,
    BadRequestFailure,
    CallEnd,
    CallFailure,
    CallFrame,
    CallReply,
    Calls,
    Cancel,
    CancelledFailure,
    FailedFailure,
    LinkRemovedFailure,
    MismatchedFailure,
    NoLinkFailure,
    NotReadFailure,
    ServiceGoneFailure,
    TimedOutFailure,
    TooManyFailure,
)
from orchestrator.frames import Frame, Message, encode_frame


class Clients(Played):
    def client(self) -> "tuple[Runtime, Peer, Client[Double, Doubled]]":
        runtime, peer = self.begin()
        double = runtime.client(Double, Doubled)
        peer.end_of_calls()
        return runtime, peer, double

    def test_it_is_declared_with_both_schemas_on_each_connection(self) -> None:
        runtime, peer = self.begin()
        runtime.client(Double, Doubled)
        runtime.service(Number, UInt8, at_once=7)
        for _ in range(3):
            declare = peer.end_of_calls()
            self.assertEqual((declare.channel, declare.end), (1023, CallEnd.CLIENT))
            self.assertEqual((declare.name, declare.at_once), ("double", 0))
            self.assertEqual(declare.request, schema_of(Double).canonical)
            self.assertEqual(declare.reply, schema_of(Doubled).canonical)
            declare = peer.end_of_calls()
            self.assertEqual((declare.channel, declare.end), (1022, CallEnd.SERVICE))
            self.assertEqual((declare.name, declare.at_once), ("n", 7))
            self.assertEqual(declare.reply, schema_of(UInt8).canonical)
            peer.close()
            peer = self.again()

    def test_once_in_each_direction(self) -> None:
        runtime, _ = self.begin()
        runtime.client(Double, Doubled)
        runtime.service(Double, Doubled)
        runtime.output(Number)
        runtime.input(Number)
        with self.assertRaisesRegex(DeclareError, "'double' is a client already"):
            runtime.output(Double)
        with self.assertRaisesRegex(DeclareError, "'double' is a service already"):
            runtime.input(Double)
        with self.assertRaisesRegex(DeclareError, "'double' is a client already"):
            runtime.client(Double, Number)
        with self.assertRaisesRegex(DeclareError, "'n' is an output already"):
            runtime.client(Number, Doubled)
        with self.assertRaisesRegex(DeclareError, "'n' is an input already"):
            runtime.service(Number, Doubled)
        with self.assertRaisesRegex(SchemaError, "is no message"):
            runtime.client(Doubled, Number)
        with self.assertRaisesRegex(SchemaError, "needs a width"):
            runtime.client(Other, int)
        for at_once in (0, 1025, "x"):
            with self.assertRaisesRegex(ValueError, "1 to 1024 calls at once"):
                runtime.service(Other, Number, at_once=at_once)  # type: ignore[arg-type]

    def test_a_schema_of_both_has_bounds(self) -> None:
        deep: Any = UInt8
        for _ in range(31):
            deep = list[deep]
        runtime, _ = self.begin()
        schema_of(deep)
        with self.assertRaisesRegex(SchemaError, "levels"):
            runtime.client(Double, deep)

    def test_many_in_flight_and_answered_in_any_order(self) -> None:
        _, peer, double = self.client()
        flights = [Beside(partial(double.call, Double(n), SOON_S)) for n in range(40)]
        calls = [peer.calls(CallFrame) for _ in flights]
        self.assertEqual(len({call.id for call in calls}), 40)
        for call in reversed(calls):
            say(
                peer,
                reply(call, encode(Number(orchestrator.decode(Double, call.payload).value * 2))),
            )
        self.assertEqual([it.result() for it in flights], [Doubled(n * 2) for n in range(40)])

    def test_the_deadline_is_told_within_its_bounds(self) -> None:
        _, peer, double = self.client()
        for deadline, low, high in [
            (10, 9_000, 10_000),
            (-5, 1, 1),
            (0.0001, 1, 1),
            (1e9, MAX_CALL_TIMEOUT_MS - 1000, MAX_CALL_TIMEOUT_MS),
            (float("inf"), MAX_CALL_TIMEOUT_MS - 1000, MAX_CALL_TIMEOUT_MS),
        ]:
            calling = Beside(lambda: double.call(Double(1), deadline))
            call = peer.calls(CallFrame)
            self.assertTrue(low <= call.timeout_ms <= high, call)
            say(peer, reply(call, b"\2"))
            self.assertEqual(calling.result(), Doubled(2))
        with self.assertRaisesRegex(ValueError, "nan"):
            double.call(Double(1), float("nan"))

    def test_why_there_is_no_reply(self) -> None:
        _, peer, double = self.client()
        table: "list[tuple[CallFailure, str, str, bool]]" = [
            (NoLinkFailure(), "NoLink", "no link leads", False),
            (MismatchedFailure("a\nb"), "Mismatched", "other schemas:\na\nb", False),
            (TimedOutFailure(False), "CallTimedOut", "no service was there", False),
            (TimedOutFailure(True), "CallTimedOut", "took too long", True),
            (CancelledFailure(), "CallCancelled", "was cancelled", True),
            (ServiceGoneFailure(), "ServiceGone", "went away", True),
            (LinkRemovedFailure(), "LinkRemoved", "the link was removed", True),
            (FailedFailure("no"), "ServiceFailed", "the service failed: no", True),
            (BadRequestFailure("x"), "BadRequest", "can't read the request: x", False),
            (TooManyFailure(), "TooManyCalls", "too many", False),
            (NotReadFailure(), "ReplyDropped", "does not read", True),
        ]
        for why, name, text, may in table:
            calling = Beside(lambda: double.call(Double(1), SOON_S))
            say(peer, failure(peer.calls(CallFrame), why))
            with self.subTest(name), self.assertRaisesRegex(CallError, text) as caught:
                calling.result()
            error = caught.exception
            self.assertEqual((type(error).__name__, error.may_have_had_effect), (name, may))
            if isinstance(error, Mismatched):
                self.assertEqual(error.schemas, "a\nb")
            if isinstance(error, CallTimedOut):
                self.assertEqual(error.given, may)

    def test_a_reply_that_is_none(self) -> None:
        _, peer, double = self.client()
        for payload in (b"", b"\xff", b"\1\1"):
            calling = Beside(lambda: double.call(Double(1), SOON_S))
            say(peer, reply(peer.calls(CallFrame), payload))
            with self.assertRaisesRegex(ReplyNotDecoded, "can't be decoded") as caught:
                calling.result()
            self.assertTrue(caught.exception.may_have_had_effect)

    def test_what_can_t_be_asked(self) -> None:
        _, _, double = self.client()
        for request, text in [
            (Double(-1), "Double.value: -1 does not fit"),
            (Double(1, bytes(MAX_CALL)), f"at most {MAX_CALL}"),
            (Number(1), "a Number is no Double"),
        ]:
            with self.assertRaisesRegex(RequestNotEncoded, text) as caught:
                double.call(request)  # type: ignore[arg-type]
            self.assertFalse(caught.exception.may_have_had_effect)
            self.assertIsInstance(caught.exception, CallError)
            self.assertIsInstance(caught.exception, EncodeError)

    def test_the_largest_call_and_reply_pass(self) -> None:
        runtime, peer = self.begin()
        echo = runtime.client(Double, Double)
        peer.end_of_calls()
        # Its number takes a byte, and its length four.
        largest = Double(1, bytes(MAX_CALL - 5))
        calling = Beside(lambda: echo.call(largest, SOON_S))
        call = peer.calls(CallFrame)
        self.assertEqual(len(call.payload), MAX_CALL)
        say(peer, reply(call, call.payload))
        self.assertEqual(calling.result(), largest)

    def test_without_an_answer_it_is_given_up_and_cancelled(self) -> None:
        _, peer, double = self.client()
        with mock.patch.object(client, "GRACE_S", 0.01):
            with self.assertRaisesRegex(CallError, "no answer in time") as caught:
                double.call(Double(1), deadline=0.01)
        self.assertTrue(caught.exception.may_have_had_effect)
        self.assertIsInstance(caught.exception, TimeoutError)
        call = peer.calls(CallFrame)
        self.assertEqual(peer.calls(Cancel), Cancel(CLIENT, call.id))
        # An answer that comes all the same is nobody's, and harms nothing.
        say(peer, reply(call, b"\2"))
        calling = Beside(lambda: double.call(Double(3), SOON_S))
        say(peer, reply(peer.calls(CallFrame), b"\6"))
        self.assertEqual(calling.result(), Doubled(6))

    def test_a_stop_cancels_what_is_under_way(self) -> None:
        runtime, peer, double = self.client()
        calling = Beside(lambda: double.call(Double(1), SOON_S))
        call = peer.calls(CallFrame)
        runtime.request_stop()
        with self.assertRaises(Stopped):
            calling.result()
        self.assertEqual(peer.calls(Cancel).id, call.id)
        with self.assertRaises(Stopped):
            double.call(Double(1))

    def test_what_is_left_by_an_exception_is_cancelled(self) -> None:
        runtime, peer, double = self.client()
        with mock.patch.object(client.Flight, "_answer", side_effect=KeyboardInterrupt):
            with self.assertRaises(KeyboardInterrupt):
                double.call(Double(1))
        self.assertEqual(peer.calls(CallFrame).id, peer.calls(Cancel).id)

    def test_a_connection_that_breaks_ends_calls_and_nothing_is_sent_again(self) -> None:
        _, peer, double = self.client()
        flights = [Beside(lambda: double.call(Double(1), SOON_S)) for _ in range(3)]
        for _ in flights:
            peer.calls(CallFrame)
        peer.close()
        for flight in flights:
            with self.assertRaisesRegex(CallError, "connection to the daemon broke") as caught:
                flight.result()
            self.assertIsInstance(caught.exception, ConnectionError)
            self.assertTrue(caught.exception.may_have_had_effect)
        # A call that is made meanwhile waits for the next daemon.
        calling = Beside(lambda: double.call(Double(7), SOON_S))
        peer = self.again()
        peer.end_of_calls()
        call = peer.calls(CallFrame)
        self.assertEqual(call.payload, encode(Double(7)))
        say(peer, reply(call, b"\x0e"))
        self.assertEqual(calling.result(), Doubled(14))

    def test_without_a_connection_nothing_is_sent(self) -> None:
        runtime, peer, double = self.client()
        self.listener.close()
        peer.close()
        with self.assertRaises(NotConnected) as caught:
            while True:
                try:
                    double.call(Double(1), deadline=0.05)
                except orchestrator.CallInterrupted:
                    pass
        self.assertFalse(caught.exception.may_have_had_effect)
        runtime.close()
        with self.assertRaises(Closed):
            double.call(Double(1))

    def test_at_most_so_many_are_under_way(self) -> None:
        _, peer, double = self.client()
        reading = Beside(lambda: [peer.calls(CallFrame) for _ in range(MAX_CALLS)])
        flights = [double.flight(Double(n), deadline=SOON_S) for n in range(MAX_CALLS)]
        link = double._link
        for flight in flights:
            link.progress.until(flight.asking, SOON_S, "it was not sent")
        with self.assertRaises(TooManyCalls) as caught:
            double.call(Double(1))
        self.assertFalse(caught.exception.may_have_had_effect)
        calls = reading.result()
        say(peer, reply(calls[0], b"\1"))
        flights[0].answered.until(flights[0].answering, SOON_S, "it was not answered")
        calling = Beside(lambda: double.call(Double(1), SOON_S))
        say(peer, reply(peer.calls(CallFrame), b"\2"))
        self.assertEqual(calling.result(), Doubled(2))

    def test_closing_ends_calls(self) -> None:
        runtime, peer, double = self.client()
        calling = Beside(lambda: double.call(Double(1), SOON_S))
        peer.calls(CallFrame)
        runtime.close(timeout=0)
        with self.assertRaises((Closed, CallError)):
            calling.result()

    def test_a_child_has_none_of_them(self) -> None:
        runtime, peer, double = self.client()
        calling = Beside(lambda: double.call(Double(1), SOON_S))
        call = peer.calls(CallFrame)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                double.call(Double(2))
            except Closed:
                code = 0
            finally:
                os._exit(code)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        say(peer, reply(call, b"\2"))
        self.assertEqual(calling.result(), Doubled(2))


@mock.patch.object(connection, "_LAST_PAUSE_S", 0.01)
class Hostile(Played):
    def test_a_daemon_that_breaks_the_protocol_is_left_and_tried_again(self) -> None:
        runtime, peer = self.begin()
        double = runtime.client(Double, Doubled)
        doubles = runtime.service(Number, Doubled, at_once=2)
        number = [CallFrame(CLIENT - 1, id, 1000, b"\1") for id in range(3)]
        table: "dict[str, list[Frame]]" = {
            "a call on 1023, which is no service": [Calls(given(1, 1))],
            "a call on 5, which is no service": [Calls(CallFrame(5, 1, 1, b""))],
            "a cancel on 1023, which is no service": [Calls(Cancel(CLIENT, 1))],
            "an answer on 1022, which is no client": [Calls(Answer(CLIENT - 1, 1, CallReply(b"")))],
            "an answer on 1024, which is no client": [Calls(Answer(1024, 1, CallReply(b"")))],
            "more calls than the service takes": list(map(Calls, number)),
            "for 1023, which is no input": [Message(CLIENT, b"")],
        }
        for problem, frames in table.items():
            with self.subTest(problem):
                peer.end_of_calls()
                peer.end_of_calls()
                peer.write(b"".join(map(encode_frame, frames)))
                peer.ended()
                peer = self.again()
                self.assertRegex(str(runtime.last_error), problem)
        peer.end_of_calls()
        peer.end_of_calls()
        calling = Beside(lambda: double.call(Double(1), SOON_S))
        say(peer, reply(peer.calls(CallFrame), b"\2"))
        self.assertEqual(calling.result(), Doubled(2))
        self.assertIsNone(doubles.try_receive())
