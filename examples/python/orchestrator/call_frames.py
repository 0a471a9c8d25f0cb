"""What is said about calls, in both directions, as PROTOCOL.md describes it in section 4.

A *client* and a *service* declare the same name and two schemas each. The daemon gives each call to
one service, and answers it exactly once.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Union

from .kinds import UInt16, UInt32, UInt64, unnamed, variant
from .schema import STRING, Enum, Node, Variant

MAX_CALL = 64 << 20
"""The largest payload of a call or of a reply, bytes."""
MAX_CALLS = 1024
"""Calls of one client that may be under way, and calls that a service may be given at once."""
MAX_CALL_TIMEOUT_MS = 86_400_000
"""The longest time that a call may be given, milliseconds: a day."""
MAX_FAILURE = 4096
"""The longest text with which a service says that it failed, bytes of UTF-8."""


class CallEnd(enum.Enum):
    """Which end of calls."""

    CLIENT = "Client"
    SERVICE = "Service"


@dataclass(frozen=True)
class DeclareCalls:
    """Instance to daemon: a channel stands for this end from now on."""

    channel: UInt16
    end: CallEnd
    name: str
    request: bytes
    reply: bytes
    at_once: UInt32


@variant("Declare")
@unnamed
@dataclass(frozen=True)
class DeclareCallsFrame:
    """Holds the declaration of an end of calls."""

    declare: DeclareCalls


@variant("Call")
@dataclass(frozen=True)
class CallFrame:
    """Client to daemon, then daemon to service, each with an id of its own: one call."""

    channel: UInt16
    id: UInt64
    timeout_ms: UInt32
    payload: bytes


@dataclass(frozen=True)
class Cancel:
    """Client to daemon: the call is not wanted any more. Daemon to service: nobody waits for this
    answer any more; it is given all the same, so that its place becomes free."""

    channel: UInt16
    id: UInt64


@variant("Reply")
@unnamed
@dataclass(frozen=True)
class CallReply:
    """The payload of a reply."""

    payload: bytes


@variant("NoLink")
@dataclass(frozen=True)
class NoLinkFailure:
    """No link leads from the client to a service."""


@variant("Mismatched")
@unnamed
@dataclass(frozen=True)
class MismatchedFailure:
    """All services declare other schemas: both, side by side."""

    schemas: str


@variant("TimedOut")
@dataclass(frozen=True)
class TimedOutFailure:
    """Its time was over; whether a service had been given it by then."""

    given: bool


@variant("Cancelled")
@dataclass(frozen=True)
class CancelledFailure:
    """The client has cancelled it."""


@variant("ServiceGone")
@dataclass(frozen=True)
class ServiceGoneFailure:
    """The connection of the service that had it has ended."""


@variant("LinkRemoved")
@dataclass(frozen=True)
class LinkRemovedFailure:
    """The link over which it was given has been removed."""


@variant("Failed")
@unnamed
@dataclass(frozen=True)
class FailedFailure:
    """The service says that it failed."""

    reason: str


@variant("BadRequest")
@unnamed
@dataclass(frozen=True)
class BadRequestFailure:
    """The service says that the payload is no request."""

    reason: str


@variant("TooMany")
@dataclass(frozen=True)
class TooManyFailure:
    """Too much of this client is under way."""


@variant("NotRead")
@dataclass(frozen=True)
class NotReadFailure:
    """There was a reply, but too many of them wait for this client."""


CallFailure = Union[
    NoLinkFailure,
    MismatchedFailure,
    TimedOutFailure,
    CancelledFailure,
    ServiceGoneFailure,
    LinkRemovedFailure,
    FailedFailure,
    BadRequestFailure,
    TooManyFailure,
    NotReadFailure,
]


@variant("Failure")
@unnamed
@dataclass(frozen=True)
class CallFailed:
    """There is no reply."""

    failure: CallFailure


@dataclass(frozen=True)
class Answer:
    """Service to daemon, then daemon to client: the one answer to a call."""

    channel: UInt16
    id: UInt64
    answer: Union[CallReply, CallFailed]


OfCalls = Union[DeclareCallsFrame, CallFrame, Cancel, Answer]


@unnamed
@dataclass(frozen=True)
class Calls:
    """Either way: something about calls."""

    frame: OfCalls


def shortened(why: str) -> str:
    """As much of a text as a service may tell."""
    return why.encode("utf-8", "replace")[:MAX_FAILURE].decode("utf-8", "ignore")


def node_of_calls(request: Node, reply: Node) -> Node:
    """What crosses a link that carries calls, as one type, which has the bounds of one."""
    parts = (("call", request), ("reply", reply), ("failed", STRING))
    return Enum(tuple(Variant(name, node, is_newtype=True) for name, node in parts))
