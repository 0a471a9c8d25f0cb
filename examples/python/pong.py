#!/usr/bin/env python3
"""A runtime in Python: answers each ping with a pong of the same value."""

from dataclasses import dataclass

from orchestrator import Disconnected, Runtime, UInt32, message


@message("examples.ping.v1")
@dataclass
class Ping:
    """A question."""

    value: UInt32


@message("examples.pong.v1")
@dataclass
class Pong:
    """The answer to the ping with the same value."""

    value: UInt32


def main() -> None:
    with Runtime.connect() as runtime:
        runtime.stop_on()
        pings = runtime.input(Ping)
        pongs = runtime.output(Pong)
        for ping in pings:
            print(f"received ping {ping.value}", flush=True)
            try:
                pongs.send(Pong(ping.value))
                print(f"sent pong {ping.value}", flush=True)
            except Disconnected:
                print(f"no connection for pong {ping.value}", flush=True)


if __name__ == "__main__":
    main()
