#!/usr/bin/env python3
"""A runtime in Python: sends a ping every 100 ms and prints it, and each pong that comes back.

Options: `--interval-ms N`, and `--count N` to end after so many pings.
"""

import argparse
import time

from orchestrator import Disconnected, Runtime, Stopped, TimedOut
from pong import Ping, Pong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interval-ms", type=int, default=100)
    parser.add_argument("--count", type=int, default=2**32 - 1)
    options = parser.parse_args()

    with Runtime.connect() as runtime:
        runtime.stop_on()
        pings = runtime.output(Ping)
        pongs = runtime.input(Pong)
        try:
            for value in range(options.count):
                until = time.monotonic() + options.interval_ms / 1000
                try:
                    pings.send(Ping(value))
                    print(f"sent ping {value}", flush=True)
                except Disconnected:
                    # Pings that were missed while there was no connection are not made up for.
                    runtime.wait_connected()
                try:
                    while True:
                        pong = pongs.receive(timeout=until - time.monotonic())
                        print(f"received pong {pong.value}", flush=True)
                except TimedOut:
                    pass
        except Stopped:
            pass


if __name__ == "__main__":
    main()
