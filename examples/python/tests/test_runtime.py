"""A runtime and a daemon that the test plays: what is promised when things go wrong, too."""

import os
import signal
import threading
import unittest
import warnings
from dataclasses import dataclass
from typing import Any, Callable, List
from unittest import mock
from uuid import UUID

from chance import chance
from orchestrator import (
    Closed,
    ConnectError,
    DeclareError,
    DecodeError,
    Disconnected,
    EncodeError,
    Input,
    NotStartedByOrchestrator,
    Output,
    Priority,
    Refused,
    RequestError,
    Runtime,
    SchemaError,
    Stopped,
    TimedOut,
    UInt8,
    UInt32,
    connection,
    message,
    schema_of,
    unnamed,
)
from orchestrator.control import (
    ListReply,
    StartedReply,
    StartRequest,
    StoppedReply,
    WireError,
)
from orchestrator.frames import (
    UNLIMITED,
    Acknowledge,
    Failure,
    From,
    Grant,
    Message,
    ReadyFrame,
    RefusedFrame,
    Reply,
    Request,
    Sender,
    Skip,
    Success,
    Welcome,
    encode_frame,
)
from orchestrator.kept import Kept
from played import INSTANCE, SOON_S, Played

SENDER = Sender(9, bytes(16), False)


@message("n")
@unnamed
@dataclass
class Number:
    value: UInt32


@message("other")
@dataclass
class Other:
    value: UInt8


@message("blob")
@dataclass
class Blob:
    raw: bytes


def until(runtime: Runtime, check: Callable[[], bool]) -> None:
    """Waits until the runtime has heard something."""
    runtime._link.progress.until(lambda: check() or None, SOON_S, "it did not hear")


def kept(output: "Output[Any]") -> Kept:
    """What an output knows of its messages."""
    return output._end.kept


class Beside:
    """Does something in a thread; `result` waits for what becomes of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._outcome: List[Any] = []
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self._outcome = [work(), None]
        except Exception as error:
            self._outcome = [None, error]

    def result(self) -> Any:
        self._thread.join(SOON_S)
        assert self._outcome, "it still waits"
        value, error = self._outcome
        if error is not None:
            raise error
        return value


class Greeting(Played):
    def fails(self, answer: bytes, kind: type, problem: str) -> None:
        def play() -> None:
            peer = self.accept()
            peer.next()
            peer.write(answer)
            peer.close()

        playing = Beside(play)
        with self.assertRaisesRegex(kind, problem):
            Runtime.connect_to(self.path)
        playing.result()

    def test_what_is_no_greeting(self) -> None:
        refused = encode_frame(RefusedFrame(WireError(4, "too old", ["really"])))
        self.fails(refused, Refused, "the daemon refused: too old: really")
        self.fails(b"", ConnectError, "closed before it answered")
        self.fails(b"\5\0", ConnectError, "closed before it answered")
        self.fails(b"HTTP/1.1 400\r\n", ConnectError, "does not speak this protocol")
        self.fails(b"\1\0\0\0\x63", ConnectError, "no variant number 99")
        self.fails(encode_frame(Grant(0, 1)), ConnectError, "did not begin with a greeting")
        self.fails(encode_frame(Welcome(3, "x", INSTANCE)), ConnectError, "it has version 3")
        self.fails(encode_frame(Welcome(2, "x", b"")), ConnectError, "did not begin")

    def test_nobody_is_there(self) -> None:
        with self.assertRaisesRegex(ConnectError, "can't connect to .*is the daemon running"):
            Runtime.connect_to(self.path + "x")
        with self.assertRaisesRegex(ConnectError, "can't connect"):
            Runtime.connect_to("/tmp/" + "x" * 200)

    def test_a_daemon_that_says_nothing_is_not_waited_for_for_ever(self) -> None:
        with mock.patch.object(connection, "GREETING_S", 0.05):
            with self.assertRaisesRegex(ConnectError, "no answer within 0.05 s"):
                Runtime.connect_to(self.path)

    def test_the_environment(self) -> None:
        with mock.patch.dict(os.environ, clear=True):
            with self.assertRaisesRegex(NotStartedByOrchestrator, "ORCHESTRATOR_IPC_SOCKET"):
                Runtime.connect()
        right = str(UUID(bytes=INSTANCE))
        for id, problem in [("x", "is no id"), (str(UUID(int=5)), "the environment says")]:
            env = {"ORCHESTRATOR_IPC_SOCKET": self.path, "ORCHESTRATOR_INSTANCE_ID": id}
            greeting = Beside(self.again)
            with mock.patch.dict(os.environ, env):
                with self.assertRaisesRegex(ConnectError, problem):
                    Runtime.connect()
            greeting.result().ended()
        greeting = Beside(self.again)
        with mock.patch.dict(os.environ, env, ORCHESTRATOR_INSTANCE_ID=right):
            with Runtime.connect() as runtime:
                self.assertEqual(str(runtime.instance_id), right)
        greeting.result().ended()


class Declaring(Played):
    def test_a_type_is_declared_with_its_hash_on_each_connection(self) -> None:
        runtime, peer = self.begin()
        runtime.input(Other, window=7)
        for _ in range(3):
            declare = peer.input()
            self.assertEqual((declare.channel, declare.direction, declare.window), (0, 1, 7))
            self.assertEqual(declare.name, "other")
            self.assertEqual(declare.schema, schema_of(Other).canonical)
            self.assertEqual(declare.hash, schema_of(Other).hash)
            peer.close()
            peer = self.again()

    def test_once_in_each_direction(self) -> None:
        runtime, _ = self.begin()
        runtime.output(Number)
        runtime.input(Number)
        for declare in (runtime.output, runtime.input):
            with self.assertRaisesRegex(DeclareError, "already; share the first"):
                declare(Number)
        with self.assertRaisesRegex(SchemaError, "is no message"):
            runtime.output(int)
        for window in (0, -1, 1 << 32, "x"):
            with self.assertRaisesRegex(ValueError, "a window is"):
                runtime.input(Other, window=window)  # type: ignore[arg-type]

    def test_ready_is_said_again(self) -> None:
        runtime, peer = self.begin()
        runtime.ready()
        runtime.ready()
        peer.expect(ReadyFrame)
        peer.close()
        self.again().expect(ReadyFrame)


class Sending(Played):
    def output(self) -> "tuple[Runtime, Any, Output[Number]]":
        runtime, peer = self.begin()
        output = runtime.output(Number)
        keep = peer.output()
        self.assertEqual((keep.next, keep.again), (0, 0))
        return runtime, peer, output

    def test_the_window(self) -> None:
        runtime, peer, output = self.output()
        peer.send(Grant(0, 2))
        until(runtime, lambda: kept(output)._held)
        output.send(Number(0))
        self.assertEqual(peer.payloads(1), [b"\0"])
        sending = Beside(lambda: output.send_many(map(Number, range(1, 5))))
        self.assertEqual(peer.payloads(1), [b"\1"])
        self.assertFalse(output.try_send(Number(9)))
        with self.assertRaisesRegex(TimedOut, "no room for n within 0.01 s"):
            output.send(Number(9), timeout=0.01)
        peer.send(Grant(0, 5))
        self.assertEqual(sending.result(), 4)
        self.assertEqual(peer.payloads(3), [b"\2", b"\3", b"\4"])
        peer.send(Grant(0, UNLIMITED))
        sending = Beside(lambda: output.send(Number(5)))
        sending.result()
        self.assertTrue(output.try_send(Number(6)))
        self.assertEqual(peer.payloads(2), [b"\5", b"\6"])

    def test_what_was_not_acknowledged_is_sent_again(self) -> None:
        runtime, peer, output = self.output()
        peer.send(Grant(0, 4))
        until(runtime, lambda: kept(output)._held)
        output.send_many(map(Number, range(4)))
        peer.payloads(4)
        peer.send(Acknowledge(0, 1))
        sending = Beside(lambda: output.send(Number(4)))
        peer.close()
        peer = self.again()
        keep = peer.output()
        self.assertEqual((keep.next, keep.again), (1, 3))
        peer.send(Grant(0, 2))
        self.assertEqual(peer.payloads(2), [b"\1", b"\2"])
        peer.send(Grant(0, 10))
        self.assertEqual(peer.payloads(2), [b"\3", b"\4"])
        sending.result()

    def test_a_message_that_is_sent_while_nobody_listens_arrives(self) -> None:
        runtime, peer, output = self.output()
        peer.send(Grant(0, 100))
        output.send(Number(0))
        peer.payloads(1)
        # Else nothing says that a link takes them.
        until(runtime, lambda: kept(output)._held)
        peer.close()
        until(runtime, lambda: not runtime.is_connected)
        sending = Beside(lambda: output.send_many(map(Number, range(1, 50))))
        peer = self.again()
        self.assertEqual(peer.output().again, 1)
        peer.send(Grant(0, 100))
        self.assertEqual(peer.payloads(50), [bytes([n]) for n in range(50)])
        self.assertEqual(sending.result(), 49)

    def test_without_a_block_link_sending_fails_while_nobody_listens(self) -> None:
        runtime, peer, output = self.output()
        peer.send(Grant(0, UNLIMITED))
        output.send(Number(0))
        peer.payloads(1)
        until(runtime, lambda: not kept(output).waits())
        peer.close()
        with self.assertRaisesRegex(Disconnected, "not connected to the daemon"):
            while True:
                output.send(Number(1))
        with self.assertRaises(Disconnected):
            output.try_send(Number(1))
        with self.assertRaisesRegex(TimedOut, "no connection within"):
            runtime.wait_connected(timeout=0.05)
        waiting = Beside(runtime.wait_connected)
        self.assertEqual(self.again().output().again, 0)
        waiting.result()
        self.assertIsNotNone(runtime.last_error)

    def test_what_the_kernel_does_not_take_is_sent_later(self) -> None:
        runtime, peer = self.begin()
        output = runtime.output(Blob)
        peer.output()
        peer.send(Grant(0, UNLIMITED))
        sending = Beside(lambda: list(map(output.send, [Blob(bytes([n]) * 700_000) for n in range(6)])))
        received = peer.payloads(6)
        sending.result()
        runtime.flush(timeout=SOON_S)
        self.assertEqual([payload[-1] for payload in received], list(range(6)))
        # Here nobody reads.
        with self.assertRaises(TimedOut):
            while True:
                output.send(Blob(bytes(700_000)), timeout=0.05)
        with self.assertRaises(TimedOut):
            runtime.flush(timeout=0.05)

    def test_what_can_t_be_sent(self) -> None:
        runtime, peer, output = self.output()
        with self.assertRaisesRegex(EncodeError, "Number.value: -1 does not fit"):
            output.send(Number(-1))
        with self.assertRaisesRegex(EncodeError, "a Other is no Number"):
            output.send(Other(1))  # type: ignore[arg-type]
        with self.assertRaisesRegex(EncodeError, "does not fit"):
            output.send_many([Number(1), Number(-1)])
        output.send(Number(1))
        self.assertEqual(peer.payloads(1), [b"\1"])


class Receiving(Played):
    def input(self, window: int = 4) -> "tuple[Runtime, Any, Input[Number]]":
        runtime, peer = self.begin()
        source = runtime.input(Number, window)
        peer.input()
        return runtime, peer, source

    def test_grants_and_acknowledgements(self) -> None:
        runtime, peer, source = self.input()
        peer.send(From(0, SENDER, 5, True), Message(0, b"\1"), Message(0, b"\2"))
        envelope = source.receive_envelope()
        self.assertEqual(envelope.message, Number(1))
        self.assertEqual((envelope.sender, envelope.number), (UUID(int=0), 5))
        self.assertEqual(source.receive(timeout=SOON_S), Number(2))
        # The program has come back for the second, so the first is done with: in a moment.
        self.assertEqual(peer.expect(Acknowledge).total, 1)
        self.assertIsNone(source.try_receive())
        self.assertEqual(peer.expect(Acknowledge).total, 2)
        self.assertEqual(peer.expect(Grant).total, 6)
        peer.send(Skip(0, 3), Message(0, b"\3"))
        envelope = source.receive_envelope()
        self.assertEqual((envelope.number, envelope.missed, source.missed), (10, 3, 3))

    def test_what_was_there_before_is_passed_over(self) -> None:
        runtime, peer, source = self.input(window=8)
        peer.send(From(0, SENDER, 0, True), Message(0, b"\0"), Message(0, b"\1"))
        self.assertEqual(source.receive(), Number(0))
        peer.close()
        peer = self.again()
        # Two are not done with, so two less may come.
        self.assertEqual(peer.input().window, 6)
        place = peer.expect(From)
        self.assertEqual((place.sender, place.next, place.kept), (SENDER, 2, False))
        peer.send(From(0, SENDER, 0, True), Message(0, b"\0"), Message(0, b"\1"))
        peer.send(Message(0, b"\2"))
        self.assertEqual([source.receive() for _ in range(2)], [Number(1), Number(2)])
        self.assertIsNone(source.try_receive())

    def test_a_payload_that_is_no_value_costs_one_message(self) -> None:
        runtime, peer, source = self.input()
        peer.send(*[Message(0, payload) for payload in (b"", b"\1\2", b"\3")])
        with self.assertRaisesRegex(DecodeError, "n.value: .*end in the middle"):
            source.receive()
        with self.assertRaisesRegex(DecodeError, "n: 1 bytes follow"):
            source.receive()
        self.assertEqual(source.receive(), Number(3))

    def test_waiting_ends(self) -> None:
        runtime, peer, source = self.input()
        with self.assertRaisesRegex(TimedOut, "no message of type n within 0.01 s"):
            source.receive(timeout=0.01)
        waiting = Beside(source.receive)
        source.close()
        with self.assertRaisesRegex(Closed, "the input n was closed"):
            waiting.result()
        other = runtime.input(Other)
        waiting = Beside(other.receive)
        loop = Beside(lambda: list(other))
        runtime.close()
        with self.assertRaisesRegex(Closed, "the runtime was closed"):
            waiting.result()
        self.assertEqual(loop.result(), [])
        for use in (other.receive, runtime.ready, lambda: runtime.output(Number)):
            with self.assertRaises(Closed):
                use()
        runtime.close()

    def test_a_stop_ends_loops_and_lets_the_last_message_out(self) -> None:
        runtime, peer, source = self.input()
        output = runtime.output(Other)
        loop = Beside(lambda: list(source))
        waiting = Beside(source.receive)
        runtime.request_stop()
        self.assertEqual(loop.result(), [])
        with self.assertRaises(Stopped):
            waiting.result()
        self.assertTrue(runtime.stop_requested)
        output.send(Other(7))
        peer.output()
        self.assertEqual(peer.payloads(1), [b"\7"])
        peer.send(Grant(1, 1))
        until(runtime, lambda: kept(output)._held)
        with self.assertRaises(Stopped):
            output.send(Other(8))

    def test_a_signal_is_a_request_to_stop(self) -> None:
        runtime, _, source = self.input()
        before = signal.getsignal(signal.SIGUSR1)
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        runtime.stop_on(signal.SIGUSR1)
        signaller = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
        signaller.start()
        # In the main thread, which is where signals are handled.
        self.assertEqual(list(source), [])
        signaller.join()
        self.assertEqual(signal.getsignal(signal.SIGUSR1), before, "a second one is as before")
        runtime.stop_on(signal.SIGUSR1)
        runtime.close()
        self.assertEqual(signal.getsignal(signal.SIGUSR1), before)

    def test_a_child_does_not_touch_its_parent_s_connection(self) -> None:
        runtime, peer, source = self.input()
        output = runtime.output(Other)
        peer.output()
        with warnings.catch_warnings():
            # From Python 3.12 on a fork beside a thread is warned of.
            warnings.simplefilter("ignore")
            child = os.fork()
        if child == 0:
            try:
                for use in (source.receive, lambda: output.send(Other(1)), runtime.flush):
                    with self.assertRaisesRegex(Closed, "connect after the fork"):
                        use()
                runtime.close()
            except BaseException:
                os._exit(1)
            os._exit(0)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        output.send(Other(2))
        self.assertEqual(peer.payloads(1), [b"\2"])
        peer.send(Message(0, b"\3"))
        self.assertEqual(source.receive(), Number(3))

    def test_a_fault_in_the_background_leaves_nobody_waiting(self) -> None:
        runtime, peer, source = self.input()
        waiting = Beside(source.receive)
        silent = mock.patch.object(threading, "excepthook", lambda _: None)
        with silent, mock.patch.object(connection, "as_message", side_effect=MemoryError("no")):
            peer.send(Message(0, b"\1"))
            with self.assertRaisesRegex(Closed, "thread has failed: MemoryError"):
                waiting.result()
            runtime._thread.join()


class Asking(Played):
    def test_answers_in_any_order(self) -> None:
        runtime, peer = self.begin()
        ids = [bytes([n] * 16) for n in (1, 2)]
        starting = Beside(lambda: runtime.start("a", Priority.LOW))
        first = peer.expect(Request)
        self.assertEqual(first.request, StartRequest("a", Priority.LOW))
        stopping = Beside(lambda: runtime.stop("b"))
        second = peer.expect(Request)
        peer.send(Reply(second.id, Success(StoppedReply(ids[1]))))
        self.assertEqual(stopping.result().bytes, ids[1])
        peer.send(Reply(first.id, Success(StartedReply(ids[0]))))
        self.assertEqual(starting.result().bytes, ids[0])
        listing = Beside(runtime.list)
        peer.send(Reply(peer.expect(Request).id, Success(ListReply([]))))
        self.assertEqual(listing.result(), [])

    def test_what_goes_wrong(self) -> None:
        runtime, peer = self.begin()

        def asked(code: int, problem: str, answer: Callable[[int], bytes]) -> None:
            asking = Beside(lambda: runtime.start("a"))
            peer.write(answer(peer.expect(Request).id))
            with self.assertRaisesRegex(RequestError, problem) as caught:
                asking.result()
            self.assertEqual(caught.exception.code, code)

        failure = Failure(WireError(10, "not privileged", ["sorry"]))
        asked(10, "^not privileged: sorry$", lambda id: encode_frame(Reply(id, failure)))
        wrong = Success(ListReply([]))
        asked(0, "of the wrong kind", lambda id: encode_frame(Reply(id, wrong)))
        short = Success(StartedReply(b""))
        asked(0, "of the wrong kind", lambda id: encode_frame(Reply(id, short)))
        # A newer daemon's answer costs this request only.
        asked(0, "can't be read", lambda id: bytes([4, 0, 0, 0, 7, id, 0, 99]))
        with self.assertRaisesRegex(RequestError, "can't be sent"):
            runtime.start("x" * (16 << 20))
        with self.assertRaises(TimedOut):
            runtime.list(timeout=0.01)
        for _ in range(15):
            with self.assertRaises(TimedOut):
                runtime.list(timeout=0)
        with self.assertRaisesRegex(RequestError, "more than 16 requests"):
            runtime.list()
        peer.close()

    def test_the_connection_breaks_before_the_answer(self) -> None:
        runtime, peer = self.begin()
        asking = Beside(runtime.list)
        peer.expect(Request)
        peer.close()
        with self.assertRaisesRegex(RequestError, "whether it was carried out is unknown"):
            asking.result()
        with self.assertRaises(Disconnected):
            while True:
                runtime.list()


@mock.patch.object(connection, "_LAST_PAUSE_S", 0.01)
class Hostile(Played):
    def test_a_daemon_that_breaks_the_protocol_is_left_and_tried_again(self) -> None:
        runtime, peer = self.begin()
        source = runtime.input(Number, window=2)
        output = runtime.output(Other)
        frames = {
            "a frame of 0 bytes": bytes(4),
            "a frame of 4294967295 bytes": b"\xff" * 4,
            "no variant number 99": b"\1\0\0\0\x63",
            "ReadyFrame is not for instances": encode_frame(ReadyFrame()),
            "Welcome is not for instances": encode_frame(Welcome(2, "", INSTANCE)),
            "a grant for 0, which is no output": encode_frame(Grant(0, 1)),
            "for 1, which is no input": encode_frame(Message(1, b"")),
            "for 9, which is no input": encode_frame(Skip(9, 1)),
            "skips numbers on 0": encode_frame(Skip(0, 1)),
            "acknowledges what it never got": encode_frame(Acknowledge(1, 1)),
            "more messages than it was granted": encode_frame(Message(0, b"\1")) * 3,
            "payload is not as long as it says": b"\4\0\0\0\4\0\5a",
            r"the daemon refused \(2\): bye": encode_frame(
                RefusedFrame(WireError(2, "bye", []))
            ),
        }
        for problem, data in frames.items():
            with self.subTest(problem):
                peer.input()
                peer.output()
                peer.write(data)
                peer.ended()
                peer = self.again()
                self.assertRegex(str(runtime.last_error), problem)
                while source.try_receive() is not None:
                    pass
        peer.input()
        peer.output()
        peer.send(Message(0, b"\5"))
        self.assertEqual(source.receive(), Number(5))
        self.assertTrue(output.try_send(Other(1)))

    def test_random_bytes(self) -> None:
        dice = chance("bytes from a daemon")
        runtime, peer = self.begin()
        source = runtime.input(Number, window=50)
        for _ in range(60):
            garbage = dice.randbytes(dice.randrange(1, 100))
            if dice.random() < 0.5:
                garbage = len(garbage).to_bytes(4, "little") + garbage
            peer.write(garbage)
            peer.close()
            peer = self.again()
            try:
                source.try_receive()
            except DecodeError:
                pass
        self.assertTrue(runtime._thread.is_alive())
        runtime.wait_connected(timeout=SOON_S)

    def test_a_daemon_that_does_not_greet_again_holds_nobody_up(self) -> None:
        runtime, peer = self.begin()
        source = runtime.input(Number)
        peer.close()
        silent = self.accept()
        silent.next()
        waiting = Beside(source.receive)
        runtime.request_stop()
        with self.assertRaises(Stopped):
            waiting.result()
        closing = Beside(runtime.close)
        closing.result()
        silent.ended()


if __name__ == "__main__":
    unittest.main()
