#!/usr/bin/env python3
"""A service in Python: answers requests to divide. Dividing by zero is a failure."""

from dataclasses import dataclass

from orchestrator import Int64, Runtime, ServiceFailed, message


@message("examples.divide.v1")
@dataclass
class Divide:
    """How often a number is in another one? Answered by a `Quotient`."""

    dividend: Int64
    divisor: Int64


@dataclass
class Quotient:
    """What comes of a division, as in C: the rest has the sign of what is divided."""

    value: Int64
    rest: Int64


def divide(request: Divide) -> Quotient:
    print(f"{request.dividend} / {request.divisor}", flush=True)
    overflows = (request.dividend, request.divisor) == (-(2**63), -1)
    if request.divisor == 0 or overflows:
        raise ServiceFailed(f"{request.dividend} can't be divided by {request.divisor}")
    value = abs(request.dividend) // abs(request.divisor)
    if (request.dividend < 0) != (request.divisor < 0):
        value = -value
    return Quotient(value, request.dividend - value * request.divisor)


def main() -> None:
    with Runtime.connect() as runtime:
        runtime.stop_on()
        service = runtime.service(Divide, Quotient)
        runtime.ready()
        service.serve(divide)


if __name__ == "__main__":
    main()
