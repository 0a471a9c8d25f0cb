"""Runtimes in Python: typed messages between programs that an orchestrator runs.

    from dataclasses import dataclass
    from orchestrator import Float32, Runtime, message

    @message("acme.wheel.v1")
    @dataclass
    class Wheel:
        turns_per_s: Float32

    @message("acme.speed.v1")
    @dataclass
    class Speed:
        metres_per_s: Float32

    with Runtime.connect() as runtime:
        wheel = runtime.input(Wheel)
        speed = runtime.output(Speed)
        for turn in wheel:
            speed.send(Speed(turn.turns_per_s * 0.31))

    with Runtime.connect() as runtime:
        quotient = runtime.client(Divide, Quotient).call(Divide(7, 2), deadline=2)

    with Runtime.connect() as runtime:
        runtime.service(Divide, Quotient).serve(divide)

Nothing but the standard library is needed, of Python 3.9 or later. `orchestrator.kinds` says which
Python type is which type in other languages, `orchestrator.aio` is the same for `asyncio`, and
`orchestrator.control` has what privileged instances are told.
"""

from .call_errors import (
    BadRequest,
    CallCancelled,
    CallError,
    CallInterrupted,
    CallTimedOut,
    LinkRemoved,
    Mismatched,
    NoAnswer,
    NoLink,
    NotConnected,
    ReplyDropped,
    ReplyNotDecoded,
    ReplyNotSent,
    RequestNotEncoded,
    ServiceFailed,
    ServiceGone,
    TooManyCalls,
)
from .client import Client
from .control import Priority, RuntimeInfo
from .errors import (
    Closed,
    ConnectError,
    DeclareError,
    DecodeError,
    Disconnected,
    EncodeError,
    NotStartedByOrchestrator,
    OrchestratorError,
    ProtocolError,
    Refused,
    RequestError,
    SchemaError,
    Stopped,
    TimedOut,
)
from .input import Envelope, Input
from .kinds import (
    ByteList,
    Char,
    Float32,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    Int128,
    Length,
    Name,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    UInt128,
    unnamed,
    variant,
)
from .message import decode, encode, message, name_of, schema_of
from .output import Output
from .runtime import DEFAULT_WINDOW, Runtime
from .schema import Schema
from .service import Call, Service

__version__ = "0.1.0"

__all__ = [
    "BadRequest",
    "ByteList",
    "Call",
    "CallCancelled",
    "CallError",
    "CallInterrupted",
    "CallTimedOut",
    "Char",
    "Client",
    "Closed",
    "ConnectError",
    "DEFAULT_WINDOW",
    "DeclareError",
    "DecodeError",
    "Disconnected",
    "EncodeError",
    "Envelope",
    "Float32",
    "Float64",
    "Input",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "Int128",
    "Length",
    "LinkRemoved",
    "Mismatched",
    "Name",
    "NoAnswer",
    "NoLink",
    "NotConnected",
    "NotStartedByOrchestrator",
    "OrchestratorError",
    "Output",
    "Priority",
    "ProtocolError",
    "Refused",
    "ReplyDropped",
    "ReplyNotDecoded",
    "ReplyNotSent",
    "RequestError",
    "RequestNotEncoded",
    "Runtime",
    "RuntimeInfo",
    "Schema",
    "SchemaError",
    "Service",
    "ServiceFailed",
    "ServiceGone",
    "Stopped",
    "TimedOut",
    "TooManyCalls",
    "UInt8",
    "UInt16",
    "UInt32",
    "UInt64",
    "UInt128",
    "decode",
    "encode",
    "message",
    "name_of",
    "schema_of",
    "unnamed",
    "variant",
]
