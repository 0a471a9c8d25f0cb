"""Privileged requests that are under way."""

from __future__ import annotations

from typing import Optional, Union

from .control import RuntimeReply, RuntimeRequest
from .errors import EncodeError, RequestError
from .frames import BadReply, Failure, Reply, Request, encode_frame

MAX_REQUESTS = 16
"""Requests that may wait for their answers: as many as a daemon takes from one connection."""


class Question:
    """A request that is under way."""

    def __init__(self) -> None:
        self.reply: Optional[RuntimeReply] = None
        self.error: Optional[RequestError] = None


class Questions:
    """Those of one connection after the other."""

    def __init__(self) -> None:
        self._waiting: dict[int, Question] = {}
        self._next = 0

    def ask(self, request: RuntimeRequest) -> tuple[Question, bytes]:
        """A question, and the frame that asks it. Raises `RequestError`."""
        # Also those that nobody waits for any more: the daemon has not answered them.
        if len(self._waiting) >= MAX_REQUESTS:
            raise RequestError(0, f"more than {MAX_REQUESTS} requests at a time", [])
        number = self._next
        try:
            frame = encode_frame(Request(number, request))
        except EncodeError as error:
            raise RequestError(0, f"the request can't be sent: {error}", []) from None
        self._next = (number + 1) & 0xFFFFFFFF
        question = self._waiting[number] = Question()
        return question, frame

    def replied(self, reply: Union[Reply, BadReply]) -> None:
        """The daemon has answered."""
        question = self._waiting.pop(reply.id, None)
        if question is None:
            return
        if isinstance(reply, BadReply):
            question.error = RequestError(0, f"the answer can't be read: {reply.problem}", [])
        elif isinstance(reply.result, Failure):
            error = reply.result.error
            question.error = RequestError(error.code, error.message, error.causes)
        else:
            question.reply = reply.result.reply

    def detach(self, reason: str) -> None:
        """The connection is gone: nobody will answer."""
        for question in self._waiting.values():
            sentence = f"no answer: {reason}; whether it was carried out is unknown"
            question.error = RequestError(0, sentence, [])
        self._waiting.clear()
