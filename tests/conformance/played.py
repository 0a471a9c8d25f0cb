"""An end that a test plays, with the library for Python: it does what it is told, line by line, and
ends when there is nothing more to be told.

    played.py send              SEND FROM TO: these numbers; GRANTED: how many it may have sent;
                                DROPPED: how many it was told are dropped
    played.py send-text LENGTH  SEND FROM TO: a text for each of these
    played.py receive           TAKE COUNT: says the next numbers, and is done with them
    played.py receive-forms     the same; a number in the other form counts a million more
    played.py send-forms        as send; each in the form of a struct as well
    played.py send-stamped      as send; each number says when it was sent
    played.py receive-stamped   as receive; says of each number when it was sent, or None, instead
"""

import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable, Optional

from orchestrator import Runtime, Stopped, UInt32, message, unnamed

MANY = 50
"""So many are sent with `send_many`."""


@message("n")
@unnamed
@dataclass
class Number:
    value: UInt32


@message("n")
@dataclass
class Named:
    value: UInt32


@message("n", reads={Named: lambda old: EitherForm(old.value + 1_000_000)})
@unnamed
@dataclass
class EitherForm:
    value: UInt32


@message("n", writes={Named: lambda new: Named(new.value)})
@unnamed
@dataclass
class Written:
    value: UInt32


@message("text")
@unnamed
@dataclass
class Text:
    text: str


def say(line: object) -> None:
    print(line, flush=True)


def told(runtime: Runtime) -> Iterator[list[str]]:
    """What it is told. At the end whoever waits is to stop."""
    lines: "queue.Queue[Optional[str]]" = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)
        runtime.request_stop()

    threading.Thread(target=read, daemon=True).start()
    while True:
        line = lines.get()
        if line is None:
            return
        yield line.split()


def send(
    runtime: Runtime, cls: Any, make: Callable[[int], Any], stamped: bool = False
) -> None:
    output = runtime.output(cls, stamped)
    say("ready")
    for what, *rest in told(runtime):
        if what == "SEND":
            first, end = map(int, rest)
            messages = map(make, range(first, end))
            if end - first < MANY:
                for it in messages:
                    output.send(it)
            else:
                output.send_many(messages)
            say(f"sent {end}")
        elif what == "GRANTED":
            # None before the daemon has answered the declaration, which it does.
            kept = output._end.kept
            say(output._link.progress.until(lambda: kept._limit, 60, "no grant"))
        else:
            say(output.dropped)


def receive(runtime: Runtime, cls: Any) -> None:
    source = runtime.input(cls)
    say("ready")
    ahead: Any = None
    for _, count in told(runtime):
        for _ in range(int(count)):
            if ahead is None:
                ahead = source.receive()
            say(ahead.value)
            ahead = None
        # It comes back, and so is done with those, and the daemon knows at once.
        ahead = source.try_receive()
        with runtime._link.lock:
            runtime._link.locked_acknowledge()
        say("done")


def receive_stamped(runtime: Runtime) -> None:
    source = runtime.input(Number)
    say("ready")
    for _, count in told(runtime):
        for _ in range(int(count)):
            envelope = source.receive_envelope()
            say(f"{envelope.message.value} {envelope.sent_ns}")
        say("done")


def main() -> None:
    mode, *rest = sys.argv[1:]
    with Runtime.connect() as runtime:
        try:
            if mode == "send-forms":
                send(runtime, Written, Written)
            elif mode == "send-stamped":
                send(runtime, Number, Number, stamped=True)
            elif mode == "receive-stamped":
                receive_stamped(runtime)
            elif mode == "send":
                send(runtime, Number, Number)
            elif mode == "send-text":
                text = Text("x" * int(rest[0]))
                send(runtime, Text, lambda _: text)
            else:
                receive(runtime, Number if mode == "receive" else EitherForm)
        except Stopped:
            pass


if __name__ == "__main__":
    main()
