#!/usr/bin/env python3
"""Prints by how much the sensor of imu.py is tilted, once in fifty readings; with asyncio."""

import asyncio
import math

from imu import Imu
from orchestrator import aio


async def main() -> None:
    async with aio.connect() as runtime:
        runtime.stop_on()
        async for imu in runtime.input(Imu):
            if imu.n % 50 == 0:
                x, _, z = imu.acceleration
                print(f"reading {imu.n}: {math.degrees(math.atan2(x, z)):.1f}°", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
