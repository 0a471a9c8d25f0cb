"""Ends of calls for the tests, which are told what to do line by line.

calls.py client|aio-client      CALL VALUE DEADLINE: says what became of it, when it has
                                CANCEL VALUE: cancels its task (asyncio)
calls.py service|aio-service    says of each call what it has, and when nobody waits any more
                                REPLY VALUE | FAIL VALUE | DROP VALUE
calls.py serve|aio-serve        answers all calls, with a function
"""

import asyncio
import sys
import threading
from dataclasses import dataclass
from typing import Any, Callable

from orchestrator import (
    Closed,
    OrchestratorError,
    Runtime,
    ServiceFailed,
    UInt32,
    aio,
    message,
    unnamed,
)


@message("double")
@dataclass
class Double:
    value: UInt32


@unnamed
@dataclass
class Doubled:
    value: UInt32


_saying = threading.Lock()


def say(line: object) -> None:
    with _saying:
        print(line, flush=True)


def came_of(value: int, error: OrchestratorError) -> str:
    may = getattr(error, "may_have_had_effect", None)
    return f"{value} {type(error).__name__} {may} {error}".splitlines()[0]


def apart(work: Callable[..., None], *args: Any) -> None:
    threading.Thread(target=work, args=args, daemon=True).start()


def client(runtime: Runtime) -> None:
    double = runtime.client(Double, Doubled)
    say("ready")

    def call(value: int, deadline: float) -> None:
        try:
            say(f"{value} is {double.call(Double(value), deadline).value}")
        except OrchestratorError as error:
            say(came_of(value, error))

    for line in sys.stdin:
        _, value, deadline = line.split()
        apart(call, int(value), float(deadline))


def service(runtime: Runtime) -> None:
    doubles = runtime.service(Double, Doubled, at_once=8)
    calls: "dict[int, Any]" = {}

    def watch(value: int) -> None:
        try:
            calls[value].wait_cancelled()
            say(f"nobody waits for {value}")
        except (Closed, KeyError):
            pass

    def take() -> None:
        for call in doubles:
            value = call.request.value
            calls[value] = call
            del call
            apart(watch, value)
            say(f"has {value}")

    apart(take)
    say("ready")
    for line in sys.stdin:
        answer(line, calls)


def answer(line: str, calls: "dict[int, Any]") -> None:
    what, text = line.split()
    value = int(text)
    try:
        if what == "REPLY":
            calls[value].reply(Doubled(value * 2))
        elif what == "FAIL":
            calls[value].fail(f"{value} is too much")
        else:
            with calls[value]:
                pass
        say(f"answered {value}")
    except OrchestratorError as error:
        say(came_of(value, error))


def doubled(request: Double) -> Doubled:
    if request.value == 13:
        raise ServiceFailed("unlucky")
    return Doubled(request.value * 2)


def serve(runtime: Runtime) -> None:
    doubles = runtime.service(Double, Doubled)
    apart(doubles.serve, doubled, 4)
    say("ready")
    sys.stdin.read()


async def lines() -> Any:
    loop = asyncio.get_running_loop()
    while True:
        line = await loop.run_in_executor(None, sys.stdin.readline)
        if not line:
            return
        yield line


async def aio_client() -> None:
    async with aio.connect() as runtime:
        double = runtime.client(Double, Doubled)
        say("ready")
        tasks: "dict[int, asyncio.Future[None]]" = {}

        async def call(value: int, deadline: float) -> None:
            try:
                say(f"{value} is {(await double.call(Double(value), deadline)).value}")
            except OrchestratorError as error:
                say(came_of(value, error))
            except asyncio.CancelledError:
                say(f"{value} was cancelled")
                raise

        async for line in lines():
            what, value, *rest = line.split()
            if what == "CALL":
                tasks[int(value)] = asyncio.ensure_future(call(int(value), float(*rest)))
            else:
                tasks[int(value)].cancel()


async def aio_service() -> None:
    async with aio.connect() as runtime:
        doubles = runtime.service(Double, Doubled, at_once=8)
        calls: "dict[int, aio.Call[Double, Doubled]]" = {}
        tasks: "list[asyncio.Future[None]]" = []

        async def watch(value: int) -> None:
            await calls[value].wait_cancelled()
            say(f"nobody waits for {value}")

        async def take() -> None:
            async for call in doubles:
                value = call.request.value
                calls[value] = call
                tasks.append(asyncio.ensure_future(watch(value)))
                say(f"has {value}")

        tasks.append(asyncio.ensure_future(take()))
        say("ready")
        async for line in lines():
            what, text = line.split()
            value = int(text)
            try:
                if what == "REPLY":
                    await calls[value].reply(Doubled(value * 2))
                elif what == "FAIL":
                    calls[value].fail(f"{value} is too much")
                else:
                    with calls[value]:
                        pass
                say(f"answered {value}")
            except OrchestratorError as error:
                say(came_of(value, error))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def aio_serve() -> None:
    async def function(request: Double) -> Doubled:
        await asyncio.sleep(0)
        return doubled(request)

    async with aio.connect() as runtime:
        doubles = runtime.service(Double, Doubled)
        serving = asyncio.ensure_future(doubles.serve(function))
        say("ready")
        async for _ in lines():
            pass
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def main() -> None:
    (mode,) = sys.argv[1:]
    if mode.startswith("aio-"):
        return asyncio.run(
            {"client": aio_client, "service": aio_service, "serve": aio_serve}[mode[4:]]()
        )
    with Runtime.connect() as runtime:
        {"client": client, "service": service, "serve": serve}[mode](runtime)


if __name__ == "__main__":
    main()
