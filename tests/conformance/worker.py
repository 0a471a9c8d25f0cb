"""One end of a link as a program of its own: the twin of worker.rs, with the library for Python.

    worker.py send|receive DIR

Each message is one number: the run of the sender's process times RUN, plus how many messages that
process has sent before. The receiver appends what it gets to DIR/got.RUN, eight bytes each. The
sender sends until there is a file DIR/enough, and says then in DIR/sent.RUN how many it was.
"""

import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator import (
    ConnectError,
    Disconnected,
    Runtime,
    TimedOut,
    UInt64,
    message,
    unnamed,
)

RUN = 1_000_000_000
"""Messages of one process of the sender, at most."""
BURST, PAUSE_S = 12, 0.001
"""What a sender sends without a pause, and how long the pause is."""


@message("n")
@unnamed
@dataclass
class Number:
    value: UInt64


def connect() -> Runtime:
    # The daemon may be away.
    while True:
        try:
            return Runtime.connect()
        except ConnectError:
            time.sleep(PAUSE_S)


def send(runtime: Runtime, directory: Path, run: int) -> None:
    output = runtime.output(Number)
    following = 0
    while not (directory / "enough").exists():
        for _ in range(BURST):
            # A wait that is given up has sent nothing.
            try:
                output.send(Number(run * RUN + following), timeout=20 * PAUSE_S)
            except (TimedOut, Disconnected):
                break
            following += 1
        time.sleep(PAUSE_S)
    # In one step: whoever looks sees all of it or nothing.
    draft = directory / f"draft.{run}"
    draft.write_text(str(following))
    draft.rename(directory / f"sent.{run}")
    # It stays connected: what it keeps may have to be sent again.
    threading.Event().wait()


def receive(runtime: Runtime, directory: Path, run: int) -> None:
    with open(directory / f"got.{run}", "ab", buffering=0) as notes:
        for number in runtime.input(Number):
            notes.write(number.value.to_bytes(8, "little"))


def main() -> None:
    role, directory = sys.argv[1:]
    run = int(os.environ["ORCHESTRATOR_RUN"])
    {"send": send, "receive": receive}[role](connect(), Path(directory), run)


if __name__ == "__main__":
    main()
