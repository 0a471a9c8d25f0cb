"""What the daemon says, passed on to whom it is for."""

from __future__ import annotations

from .call_frames import Calls
from .errors import ProtocolError
from .frames import (
    Acknowledge,
    BadReply,
    Dropped,
    FormFrame,
    From,
    Grant,
    Incoming,
    RefusedFrame,
    Reply,
    Skip,
    Stamps,
    encode_frame,
)
from .link import Link


def locked_hear(link: Link, frame: Incoming) -> None:
    """Takes a frame that is no message. Raises `ProtocolError` if the connection has to end."""
    if isinstance(frame, Grant):
        kept = link.output(frame.channel, "a grant").kept
        kept.granted(frame.total)
        if kept.is_behind():
            link.locked_flush()
        else:
            link.progress.ring()
    elif isinstance(frame, Acknowledge):
        if not link.output(frame.channel, "an acknowledgement").kept.acknowledged(frame.total):
            raise ProtocolError("the daemon acknowledges what it never got")
        link.progress.ring()
    elif isinstance(frame, Dropped):
        link.output(frame.channel, "something dropped").dropped_by_now(frame.total)
    elif isinstance(frame, From):
        link.input(frame.channel).arrivals.turn_to(frame.sender, frame.next, frame.kept)
    elif isinstance(frame, Skip):
        if not link.input(frame.channel).arrivals.skip(frame.count):
            raise ProtocolError(f"it skips numbers on {frame.channel}, which has none")
    elif isinstance(frame, FormFrame):
        if not link.input(frame.channel).arrivals.turn_to_form(frame.form):
            raise ProtocolError(f"form {frame.form} on {frame.channel}, which takes none such")
    elif isinstance(frame, Stamps):
        link.input(frame.channel).arrivals.turn_to_stamps(frame.stamped)
    elif isinstance(frame, (Reply, BadReply)):
        link.questions.replied(frame)
        link.progress.ring()
    elif isinstance(frame, Calls):
        answer = link.calls.handle(frame.frame, link.connection)
        if answer is not None:
            link.writing.push(encode_frame(answer))
            link.locked_flush()
    elif isinstance(frame, RefusedFrame):
        error = frame.error
        sentence = ": ".join([error.message, *error.causes])
        raise ProtocolError(f"the daemon refused ({error.code}): {sentence}")
    else:
        raise ProtocolError(f"{type(frame).__name__} is not for instances")
