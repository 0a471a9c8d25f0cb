"""Which messages an input has had, and the account of its window."""

import unittest

from orchestrator.arrivals import Arrivals
from orchestrator.errors import ProtocolError
from orchestrator.frames import Sender
from orchestrator.seen import MAX_SENDERS, Seen


def sender(epoch: int) -> Sender:
    return Sender(epoch, bytes(16), False)


def run(seen: Seen, epoch: int, first: int, count: int) -> int:
    """How many of these messages were there before."""
    seen.turn_to(sender(epoch), first)
    return [seen.arrived() for _ in range(count)].count(None)


class Recognised(unittest.TestCase):
    def test_what_comes_again_is_recognised_and_gaps_are_passed_over(self) -> None:
        seen = Seen()
        self.assertEqual(run(seen, 1, 5, 3), 0, "the first that is seen is new")
        self.assertEqual(run(seen, 1, 6, 4), 2, "6 and 7 came again")
        self.assertEqual(run(seen, 1, 2, 3), 3)
        self.assertEqual(run(seen, 1, 20, 1), 0)
        self.assertEqual(run(seen, 1, 10, 5), 5, "what was left out does not come later")
        self.assertEqual(run(seen, 2, 0, 5), 0, "another process begins anew")
        self.assertEqual(run(seen, 1, 21, 1), 0)
        self.assertTrue(seen.skip(2))
        self.assertEqual(seen.arrived(), (24, 2))
        self.assertEqual(run(seen, 1, 20, 10), 5, "all below 25")
        seen.turn_to(None, 0)
        self.assertFalse(seen.skip(1))
        self.assertEqual(seen.arrived(), (0, 0), "without a number all are new")

    def test_the_memory_is_bounded(self) -> None:
        seen = Seen()
        for epoch in range(3 * MAX_SENDERS):
            run(seen, 0, epoch, 1)
            run(seen, epoch + 1, 0, 1)
        self.assertEqual(len(seen.places()), MAX_SENDERS)
        self.assertEqual(run(seen, 0, 0, 1), 1, "who speaks is not forgotten")


class Windows(unittest.TestCase):
    def test_more_than_was_granted_is_refused(self) -> None:
        arrivals = Arrivals(2)
        self.assertEqual(arrivals.begin(), 2)
        self.assertTrue(arrivals.push(b"") and arrivals.push(b""))
        with self.assertRaises(ProtocolError):
            arrivals.push(b"")

    def test_a_message_is_done_with_when_the_program_comes_back(self) -> None:
        arrivals = Arrivals(4)
        arrivals.begin()
        arrivals.turn_to(sender(1), 0, True)
        arrivals.push(b"a")
        arrivals.push(b"b")
        self.assertIsNotNone(arrivals.take())
        self.assertIsNone(arrivals.acknowledge())
        arrivals.come_back()
        self.assertEqual(arrivals.acknowledge(), 1)
        arrivals.take()
        arrivals.come_back()
        due = arrivals.due()
        assert due is not None
        self.assertEqual((due.grant, due.acknowledge), (6, 2))
        self.assertIsNone(arrivals.due())

    def test_what_is_not_kept_is_not_acknowledged(self) -> None:
        arrivals = Arrivals(4)
        arrivals.begin()
        arrivals.push(b"a")
        arrivals.take()
        arrivals.come_back()
        self.assertIsNone(arrivals.acknowledge())

    def test_a_full_window_lets_one_in_after_a_reconnection(self) -> None:
        arrivals = Arrivals(1)
        arrivals.begin()
        arrivals.push(b"a")
        # Zero would mean no limit.
        self.assertEqual(arrivals.begin(), 1)

    def test_a_closed_input_is_not_declared_again(self) -> None:
        arrivals = Arrivals(2)
        arrivals.begin()
        arrivals.push(b"a")
        arrivals.close()
        self.assertFalse(arrivals.push(b"b"))
        self.assertEqual(len(arrivals), 0)
        self.assertIsNone(arrivals.begin())
