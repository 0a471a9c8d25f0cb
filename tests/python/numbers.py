"""The instances of the tests in Python: numbers that are sent, passed on, and checked.

    numbers.py send COUNT      sends the numbers below COUNT as type "n", then lives on
    numbers.py relay           passes each "n" on as "m"
    numbers.py aio-relay       the same with asyncio
    numbers.py receive COUNT   takes the numbers below COUNT as "m"
    numbers.py envelopes       prints each "n", its sender and what was missed; then it is ready
    numbers.py mistyped        takes "n" as something else
"""

import asyncio
import random
import sys
import time
from dataclasses import dataclass

from orchestrator import Runtime, UInt32, UInt64, aio, message, unnamed


@message("n")
@unnamed
@dataclass
class Number:
    value: UInt32


@message("m")
@unnamed
@dataclass
class Passed:
    value: UInt32


@message("n")
@dataclass
class Mistyped:
    value: UInt64


def say(line: object) -> None:
    print(line, flush=True)


def send(runtime: Runtime, count: int) -> None:
    output = runtime.output(Number)
    chance = random.Random(3)
    following = 0
    while following < count:
        burst = range(following, min(following + chance.randrange(100), count))
        if len(burst) < 50:
            for value in burst:
                output.send(Number(value))
        else:
            assert output.send_many(map(Number, burst)) == len(burst)
        following += len(burst)
    say(f"sent {count}")
    # What was sent may have to be sent again, and more may be dropped.
    dropped = 0
    while True:
        time.sleep(0.01)
        if output.dropped > dropped:
            dropped = output.dropped
            say(f"{dropped} were dropped")


def relay(runtime: Runtime) -> None:
    output = runtime.output(Passed)
    for number in runtime.input(Number, window=7):
        output.send(Passed(number.value))


async def aio_relay() -> None:
    async with aio.connect() as runtime:
        output = runtime.output(Passed)
        async for number in runtime.input(Number, window=7):
            await output.send(Passed(number.value))


def receive(runtime: Runtime, count: int) -> None:
    expected = 0
    for number in runtime.input(Passed, window=50):
        if number.value != expected:
            say(f"expected {expected}, got {number.value}")
        expected = number.value + 1
        if expected % 100 == 0 or expected == count:
            say(f"all below {expected}")


def envelopes(runtime: Runtime) -> None:
    source = runtime.input(Number, window=4)
    say("listening")
    while True:
        envelope = source.receive_envelope()
        runtime.ready()
        say(f"{envelope.message.value} {envelope.number} {envelope.missed} {envelope.sender}")


def main() -> None:
    mode, *rest = sys.argv[1:]
    if mode == "aio-relay":
        return asyncio.run(aio_relay())
    with Runtime.connect() as runtime:
        if mode == "send":
            send(runtime, int(rest[0]))
        elif mode == "relay":
            relay(runtime)
        elif mode == "receive":
            receive(runtime, int(rest[0]))
        elif mode == "envelopes":
            envelopes(runtime)
        elif mode == "mistyped":
            for _ in runtime.input(Mistyped):
                pass


if __name__ == "__main__":
    main()
