#!/usr/bin/env python3
"""A sensor in Python: sends a made-up acceleration a hundred times a second.

Added with `--ready-runtime` it counts as ready once it can send.
"""

import enum
import math
import time
from dataclasses import dataclass
from typing import Annotated, Optional

from orchestrator import Disconnected, Float32, Length, Runtime, Stopped, UInt32, message


class Quality(enum.Enum):
    """How much a reading is worth."""

    GOOD = "Good"
    NOISY = "Noisy"


@message("examples.imu.v1")
@dataclass
class Imu:
    """One reading."""

    n: UInt32
    acceleration: Annotated[list[Float32], Length(3)]
    """m/s², along x, y and z."""
    quality: Quality
    celsius: Optional[Float32] = None


def reading(n: int) -> Imu:
    """What a sensor that is slowly tilted to and fro would say."""
    tilt = 0.5 * math.sin(n / 100)
    return Imu(n, [9.81 * math.sin(tilt), 0.0, 9.81 * math.cos(tilt)], Quality.GOOD)


def main() -> None:
    with Runtime.connect() as runtime:
        runtime.stop_on()
        readings = runtime.output(Imu)
        runtime.ready()
        n = 0
        try:
            while not runtime.stop_requested:
                try:
                    readings.send(reading(n))
                    n += 1
                except Disconnected:
                    runtime.wait_connected()
                time.sleep(0.01)
        except Stopped:
            pass


if __name__ == "__main__":
    main()
