"""A runtime and a daemon that the test plays: greeting, declaring, asking, and what is hostile."""

import os
from typing import Callable
from unittest import mock
from uuid import UUID

from chance import chance
from played import INSTANCE, SOON_S, Beside, Number, Other, Played

from orchestrator import (
    ConnectError,
    DeclareError,
    DecodeError,
    Disconnected,
    NotStartedByOrchestrator,
    Priority,
    Refused,
    RequestError,
    Runtime,
    SchemaError,
    Stopped,
    TimedOut,
    connection,
    schema_of,
)
from orchestrator.control import (
    ListReply,
    StartedReply,
    StartRequest,
    StoppedReply,
    WireError,
)
from orchestrator.frames import (
    MAX_FRAME,
    Acknowledge,
    Dropped,
    Failure,
    Grant,
    Message,
    ReadyFrame,
    RefusedFrame,
    Reply,
    Request,
    Skip,
    Success,
    Welcome,
    encode_frame,
)


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
            runtime.start("x" * MAX_FRAME)
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
            "dropped for 0, which is no output": encode_frame(Dropped(0, 1)),
            "for 9, which is no input": encode_frame(Skip(9, 1)),
            "skips numbers on 0": encode_frame(Skip(0, 1)),
            "acknowledges what it never got": encode_frame(Acknowledge(1, 1)),
            "more messages than it was granted": encode_frame(Message(0, b"\1")) * 3,
            "payload is not as long as it says": b"\4\0\0\0\4\0\5a",
            r"the daemon refused \(2\): bye": encode_frame(RefusedFrame(WireError(2, "bye", []))),
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
