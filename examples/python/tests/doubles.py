"""What the tests of calls call: a number is doubled."""

from dataclasses import dataclass

from played import Peer

from orchestrator import UInt32, encode, message, unnamed
from orchestrator.call_frames import (
    Answer,
    CallFailed,
    CallFailure,
    CallFrame,
    CallReply,
    Calls,
    OfCalls,
)


@message("double")
@dataclass
class Double:
    value: UInt32
    ballast: bytes = b""


@unnamed
@dataclass
class Doubled:
    value: UInt32


CLIENT = 1023
"""The channel of the first end of calls."""


def say(peer: Peer, *frames: OfCalls) -> None:
    peer.send(*map(Calls, frames))


def reply(call: CallFrame, payload: bytes) -> Answer:
    return Answer(call.channel, call.id, CallReply(payload))


def failure(call: CallFrame, why: CallFailure) -> Answer:
    return Answer(call.channel, call.id, CallFailed(why))


def given(id: int, value: int, timeout_ms: int = 60_000) -> CallFrame:
    return CallFrame(CLIENT, id, timeout_ms, encode(Double(value)))
