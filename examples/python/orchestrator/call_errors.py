"""Why a call has no reply, and why a reply was not sent."""

from __future__ import annotations

from .call_frames import (
    BadRequestFailure,
    CallFailure,
    CancelledFailure,
    FailedFailure,
    LinkRemovedFailure,
    MismatchedFailure,
    NoLinkFailure,
    ServiceGoneFailure,
    TimedOutFailure,
    TooManyFailure,
)
from .errors import DecodeError, Disconnected, EncodeError, OrchestratorError


class CallError(OrchestratorError):
    """Why a call has no reply: the base of all that can become of it."""

    may_have_had_effect = True
    """Whether the call may have had an effect. If not, it was given to no service, or the service
    says that it could not read it: it can be made again without harm."""


class NoLink(CallError):
    """No link leads from this instance to a service."""

    may_have_had_effect = False


class Mismatched(CallError):
    """The services that links lead to, and that are connected, declare other schemas; `schemas` has
    both, side by side."""

    may_have_had_effect = False

    def __init__(self, schemas: str) -> None:
        super().__init__(f"the service declares other schemas:\n{schemas}")
        self.schemas = schemas


class CallTimedOut(CallError, TimeoutError):
    """Its time was over. `given` says whether a service had been given it by then; if not, it has
    had no effect."""

    def __init__(self, given: bool) -> None:
        took = "the service took too long" if given else "no service was there in time"
        super().__init__(took)
        self.given = given
        self.may_have_had_effect = given


class CallCancelled(CallError):
    """It was cancelled."""


class ServiceGone(CallError):
    """The connection of the service that had been given it has ended."""


class LinkRemoved(CallError):
    """The link over which it was given has been removed."""


class ServiceFailed(CallError):
    """The service says that it failed, and why; `reason` has at most 4,096 bytes. What a service
    raises to say so, see `Service.serve`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the service failed: {reason}")
        self.reason = reason


class BadRequest(CallError):
    """The service says that it can't read the request; `reason` has at most 4,096 bytes."""

    may_have_had_effect = False

    def __init__(self, reason: str) -> None:
        super().__init__(f"the service can't read the request: {reason}")
        self.reason = reason


class TooManyCalls(CallError):
    """1,024 calls of this client are under way, or 64 MiB of them wait. Nothing was done."""

    may_have_had_effect = False


class ReplyDropped(CallError):
    """There was a reply, but 64 MiB of them waited for this program, which did not read."""


class CallInterrupted(CallError, ConnectionError):
    """The connection broke while the call was under way. It is not sent again."""


class NotConnected(CallError, TimeoutError):
    """There was no connection to the daemon until its time was over. Nothing was sent."""

    may_have_had_effect = False


class NoAnswer(CallError, TimeoutError):
    """The daemon did not say in time how it went, as when it stands still."""


class RequestNotEncoded(CallError, EncodeError):
    """The request does not fit its type, or has more than 64 MiB. Nothing was sent."""

    may_have_had_effect = False


class ReplyNotDecoded(CallError, DecodeError):
    """The reply is no value of its type. The call has had its effect."""


class ReplyNotSent(Disconnected):
    """The connection over which the call came is gone, and with it whoever waits for the reply."""


def error_of(failure: CallFailure) -> CallError:
    """What the daemon or the service says, as an error."""
    if isinstance(failure, NoLinkFailure):
        return NoLink("no link leads to a service; make one with `link add`")
    if isinstance(failure, MismatchedFailure):
        return Mismatched(failure.schemas)
    if isinstance(failure, TimedOutFailure):
        return CallTimedOut(failure.given)
    if isinstance(failure, CancelledFailure):
        return CallCancelled("the call was cancelled")
    if isinstance(failure, ServiceGoneFailure):
        return ServiceGone(
            "the service went away with the call; whether it did anything is unknown"
        )
    if isinstance(failure, LinkRemovedFailure):
        return LinkRemoved("the link was removed; whether the service did anything is unknown")
    if isinstance(failure, FailedFailure):
        return ServiceFailed(failure.reason)
    if isinstance(failure, BadRequestFailure):
        return BadRequest(failure.reason)
    if isinstance(failure, TooManyFailure):
        return TooManyCalls("too many calls are under way; nothing was done")
    return ReplyDropped("the reply was dropped: this program does not read")
