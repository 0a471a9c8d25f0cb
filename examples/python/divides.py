#!/usr/bin/env python3
"""A client in Python: has numbers divided by a service, one after the other, and prints what comes
of it; with asyncio."""

import asyncio

from divider import Divide, Quotient
from orchestrator import CallError, Stopped, aio


async def main() -> None:
    async with aio.connect() as runtime:
        runtime.stop_on()
        divide = runtime.client(Divide, Quotient)
        dividend = 1_000
        try:
            while not runtime.stop_requested:
                try:
                    quotient = await divide.call(Divide(dividend, dividend % 10), deadline=2)
                    print(f"{dividend}: {quotient.value}, {quotient.rest} is left", flush=True)
                except CallError as error:
                    undone = "" if error.may_have_had_effect else "not done: "
                    print(f"{dividend}: {undone}{error}", flush=True)
                dividend += 1
                await asyncio.sleep(0.2)
        except Stopped:
            pass


if __name__ == "__main__":
    asyncio.run(main())
