"""Sending and receiving with a daemon that the test plays: windows, copies, how waiting ends."""

import os
import signal
import threading
import time
import warnings
from typing import Any
from unittest import mock
from uuid import UUID

from played import SOON_S, Beside, Blob, Number, Other, Played, kept, until

from orchestrator import (
    Closed,
    DecodeError,
    Disconnected,
    EncodeError,
    Input,
    Output,
    Runtime,
    Stopped,
    TimedOut,
    connection,
)
from orchestrator.frames import (
    UNLIMITED,
    Acknowledge,
    Dropped,
    From,
    Grant,
    Message,
    Sender,
    Skip,
    Stamps,
)

SENDER = Sender(9, bytes(16), False)


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

    def test_what_links_dropped_after_their_block_timeout_is_told(self) -> None:
        runtime, peer, output = self.output()
        peer.send(Dropped(0, 3), Dropped(0, 5), Grant(0, 1))
        until(runtime, lambda: kept(output)._held)
        self.assertEqual(output.dropped, 5)
        peer.close()
        peer = self.again()
        peer.output()
        # Counted from the beginning of the connection.
        peer.send(Dropped(0, 2), Grant(0, 1))
        until(runtime, lambda: kept(output)._limit == 1)
        self.assertEqual(output.dropped, 7)

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
        sending = Beside(
            lambda: list(map(output.send, [Blob(bytes([n]) * 700_000) for n in range(6)]))
        )
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

    def test_when_a_message_was_sent(self) -> None:
        runtime, peer, source = self.input()
        stamp = (1234).to_bytes(8, "little")
        peer.send(Message(0, b"\1"), Stamps(0, True), Message(0, b"\2" + stamp))
        peer.send(Stamps(0, False), Message(0, b"\3"))
        got = [source.receive_envelope() for _ in range(3)]
        got_both = [(it.message.value, it.sent_ns) for it in got]
        self.assertEqual(got_both, [(1, None), (2, 1234), (3, None)])
        output = runtime.output(Number, stamped=True)
        self.assertEqual(peer.expect_past(Stamps), Stamps(1, True))
        peer.output()
        before = time.time_ns()
        output.send(Number(7))
        payload = peer.expect_past(Message).payload
        self.assertEqual(payload[:-8], b"\7")
        sent = int.from_bytes(payload[-8:], "little")
        self.assertTrue(before <= sent <= time.time_ns())

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
