"""Nothing is lost, doubled or out of order under `block`, whatever breaks: the two ends of this
package around a model of a daemon, with random cuts and deaths, and no socket or thread."""

import random
import unittest
from collections import deque
from typing import Any, Optional

from chance import chance

from orchestrator.arrivals import Arrivals
from orchestrator.frames import UNLIMITED, Sender
from orchestrator.kept import Kept

SENDER = Sender(epoch=7, instance=bytes(16), anybody=False)

Pipe = deque[tuple[Any, ...]]


class Daemon:
    """A link with the policy `block` between one sender and one receiver."""

    def __init__(self, capacity: int, remembers: bool) -> None:
        self.capacity = capacity
        self.remembers = remembers
        """Whether it passes over what the sender sends again and it has had. If not, the receiver
        has to, which a new process of it can't."""
        self.had = 0
        self.queue: deque[int] = deque()
        self.under_way: deque[int] = deque()
        """Written to the receiver and not acknowledged."""
        self.done = 0
        """All numbers below were acknowledged."""
        self.base = self.arrived = 0
        self.to_sender: Optional[Pipe] = None
        self.to_receiver: Optional[Pipe] = None
        self.written = self.granted = self.acknowledged = 0
        self.expected: Optional[int] = None

    def sender_connects(self, first: int, to_sender: Pipe) -> None:
        self.base = self.arrived = first
        self.done = max(self.done, first)
        self.to_sender = to_sender
        self.tell_sender()

    def tell_sender(self) -> None:
        if self.to_sender is not None:
            settled = min(self.done, self.arrived) - self.base
            self.to_sender.append(("acknowledge", settled))
            self.to_sender.append(("grant", max(self.done - self.base, 0) + self.capacity))

    def receiver_connects(self, window: int, to_receiver: Pipe) -> None:
        self.queue.extendleft(reversed(self.under_way))
        self.under_way.clear()
        self.to_receiver = to_receiver
        self.written = self.acknowledged = 0
        self.granted, self.expected = window, None
        self.pump()

    def pump(self) -> None:
        while self.to_receiver is not None and self.queue and self.written < self.granted:
            number = self.queue.popleft()
            if number != self.expected:
                if self.expected is not None and number > self.expected:
                    self.to_receiver.append(("skip", number - self.expected))
                else:
                    self.to_receiver.append(("from", number))
            self.to_receiver.append(("message", number))
            self.expected = number + 1
            self.under_way.append(number)
            self.written += 1

    def hears_sender(self, number: int) -> None:
        if number >= self.had or not self.remembers:
            self.queue.append(number)
        self.arrived = number + 1
        self.had = max(self.had, self.arrived)
        self.pump()

    def hears_receiver(self, what: str, total: int) -> None:
        if what == "grant":
            assert total >= self.granted
            self.granted = total
        else:
            assert self.acknowledged <= total <= self.written, "it acknowledges what it got"
            while self.acknowledged < total:
                self.done = max(self.done, self.under_way.popleft() + 1)
                self.acknowledged += 1
            self.tell_sender()
        self.pump()


class World:
    def __init__(self, dice: random.Random, count: int, mortal: bool = False) -> None:
        self.mortal = mortal
        self.dice, self.count = dice, count
        self.capacity, window = dice.choice([1, 2, 16]), dice.choice([1, 2, 5, 40])
        self.kept, self.arrivals = Kept(), Arrivals(window)
        self.daemon = Daemon(self.capacity, remembers=self.mortal)
        self.next = 0
        self.window = window
        self.got: list[int] = []
        self.done = 0
        """So many the program has come back after."""
        self.is_first = True
        """Whether this process of the receiver has had none yet."""
        self.from_sender: Optional[Pipe] = None
        self.to_sender: Pipe = deque()
        self.from_receiver: Optional[Pipe] = None
        self.to_receiver: Pipe = deque()

    # The sender

    def sender_connects(self) -> None:
        if self.from_sender is None and not self.to_sender:
            self.from_sender = deque()
            first, _ = self.kept.begin()
            self.daemon.sender_connects(first, self.to_sender)

    def sender_sends(self) -> None:
        if self.from_sender is not None and self.next < self.count:
            burst = range(self.next, min(self.next + self.dice.randrange(1, 5), self.count))
            frames = [number.to_bytes(4, "little") for number in burst]
            taken = self.kept.take(frames)
            self.from_sender.extend((frame,) for frame in frames[:taken])
            self.next += taken

    def sender_hears(self) -> None:
        if not self.to_sender:
            return
        what, total = self.to_sender.popleft()
        if self.from_sender is None:
            return
        if what == "grant":
            self.kept.granted(total)
        else:
            assert self.kept.acknowledged(total)
        while True:
            frames = self.kept.again(self.dice.choice([1, 8, 1000]))
            if not frames:
                return
            self.from_sender.extend((frame,) for frame in frames)

    # The receiver

    def receiver_connects(self) -> None:
        # It has read all that the connection before held.
        if self.from_receiver is None and not self.to_receiver:
            self.from_receiver = deque()
            window = self.arrivals.begin()
            assert window is not None
            self.daemon.receiver_connects(window, self.to_receiver)

    def receiver_hears(self) -> None:
        if not self.to_receiver:
            return
        what, number = self.to_receiver.popleft()
        if what == "from":
            self.arrivals.turn_to(SENDER, number, True)
        elif what == "skip":
            assert self.arrivals.skip(number)
        elif not self.arrivals.push(number.to_bytes(4, "little")):
            self.receiver_tells()

    def receiver_takes(self) -> None:
        self.arrivals.come_back()
        self.done = len(self.got)
        arrival = self.arrivals.take()
        if arrival is not None:
            number = int.from_bytes(arrival.payload, "little")
            assert number == arrival.number and arrival.missed == 0
            if self.is_first:
                # What its predecessor had not acknowledged comes again.
                assert number <= self.done, "nothing was acknowledged before it was done with"
                del self.got[number:]
                self.is_first = False
            self.got.append(number)
        self.receiver_tells()

    def receiver_tells(self) -> None:
        if self.from_receiver is None:
            return
        due = self.arrivals.due()
        if due is not None:
            if due.acknowledge is not None:
                self.from_receiver.append(("acknowledge", due.acknowledge))
            self.from_receiver.append(("grant", due.grant))

    def receiver_acknowledges(self) -> None:
        if self.from_receiver is not None:
            total = self.arrivals.acknowledge()
            if total is not None:
                self.from_receiver.append(("acknowledge", total))

    # The daemon

    def daemon_hears_sender(self) -> None:
        if self.from_sender:
            (frame,) = self.from_sender.popleft()
            self.daemon.hears_sender(int.from_bytes(frame, "little"))

    def daemon_hears_receiver(self) -> None:
        if self.from_receiver:
            self.daemon.hears_receiver(*self.from_receiver.popleft())

    # What breaks

    def cut_sender(self) -> None:
        """What it had written may be lost, or a part of it."""
        for _ in range(self.dice.randrange(5)):
            self.daemon_hears_sender()
        self.from_sender, self.daemon.to_sender = None, None

    def cut_receiver(self) -> None:
        for _ in range(self.dice.randrange(5)):
            self.daemon_hears_receiver()
        self.from_receiver, self.daemon.to_receiver = None, None

    def kill_receiver(self) -> None:
        """The next process of the instance knows nothing."""
        self.cut_receiver()
        self.to_receiver.clear()
        self.arrivals, self.is_first = Arrivals(self.window), True

    def kill_daemon(self) -> None:
        self.cut_sender()
        self.cut_receiver()
        self.daemon = Daemon(self.capacity, remembers=self.mortal)

    def run(self) -> None:
        steps = [
            self.sender_connects,
            self.sender_sends,
            self.sender_hears,
            self.receiver_connects,
            self.receiver_hears,
            self.receiver_takes,
            self.receiver_acknowledges,
            self.daemon_hears_sender,
            self.daemon_hears_receiver,
        ]
        breaks = [self.cut_sender, self.cut_receiver, self.kill_daemon]
        if self.mortal:
            breaks.append(self.kill_receiver)
        for _ in range(100 * self.count + 2000):
            broken = self.next < self.count and self.dice.random() < 0.01
            self.dice.choice(breaks if broken else steps)()
            if len(self.got) >= self.count and self.kept.settled == self.count:
                return


class Survival(unittest.TestCase):
    def test_each_message_arrives_once_and_in_order(self) -> None:
        dice = chance("cuts and deaths")
        for case in range(150):
            world = World(random.Random(dice.randrange(1 << 32)), 120)
            world.run()
            self.assertEqual(world.got, list(range(world.count)), f"case {case}")

    def test_what_a_receiver_had_not_done_goes_to_its_next_process(self) -> None:
        dice = chance("deaths of receivers")
        for case in range(150):
            world = World(random.Random(dice.randrange(1 << 32)), 120, mortal=True)
            world.run()
            self.assertEqual(world.got, list(range(world.count)), f"case {case}")

    def test_all_is_acknowledged_in_the_end(self) -> None:
        dice = chance("acknowledgements")
        for case in range(50):
            world = World(random.Random(dice.randrange(1 << 32)), 60)
            world.run()
            self.assertEqual(world.kept.settled, world.count, f"case {case}")


class Outputs(unittest.TestCase):
    def test_before_the_first_grant_only_so_much_may_be_sent(self) -> None:
        kept = Kept()
        kept.begin()
        self.assertEqual(kept.take([b"x"] * 2000), 1024)
        self.assertEqual(kept.take([b"x"]), 0)
        kept = Kept()
        kept.begin()
        self.assertEqual(kept.take([bytes(1 << 20)]), 1)
        self.assertEqual(kept.take([b"x"]), 0, "a MiB is enough")

    def test_without_a_block_link_nothing_is_kept(self) -> None:
        kept = Kept()
        kept.begin()
        kept.take([b"a", b"b"])
        self.assertTrue(kept.waits(), "until the daemon has answered, one might come")
        kept.granted(UNLIMITED)
        self.assertFalse(kept.waits())
        self.assertEqual(kept.take([b"c"] * 5000), 5000)
        self.assertEqual(kept.begin(), (5002, 0))

    def test_a_lower_grant_holds(self) -> None:
        kept = Kept()
        kept.begin()
        kept.granted(10)
        self.assertEqual(kept.take([b"x"] * 8), 8)
        kept.granted(4)
        self.assertEqual(kept.take([b"x"]), 0)
        kept.granted(9)
        self.assertEqual(kept.take([b"x"] * 5), 1)

    def test_an_acknowledgement_of_what_was_never_sent_is_refused(self) -> None:
        kept = Kept()
        kept.begin()
        kept.granted(10)
        kept.take([b"x"] * 3)
        self.assertTrue(kept.acknowledged(3))
        self.assertFalse(kept.acknowledged(4))
        self.assertEqual(kept.begin(), (3, 0))

    def test_what_was_not_acknowledged_comes_again_first(self) -> None:
        kept = Kept()
        kept.begin()
        kept.granted(10)
        kept.take([b"0", b"1", b"2", b"3"])
        kept.acknowledged(1)
        self.assertEqual(kept.begin(), (1, 3))
        self.assertEqual(kept.again(100), [], "not before the first grant")
        kept.granted(2)
        self.assertEqual(kept.take([b"4"]), 0)
        self.assertEqual(kept.again(100), [b"1", b"2"])
        kept.granted(UNLIMITED)
        self.assertEqual(kept.again(100), [b"3"])
        self.assertEqual(kept.take([b"4"]), 1)
        self.assertEqual(kept.begin(), (5, 0))
