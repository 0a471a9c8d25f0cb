"""What can go wrong, each with a sentence that says what to do.

All of it is an `OrchestratorError`, so that one `except` catches everything that comes from this
package. Mistakes of the program (a bad type, a bad value) and what happens to it (no connection,
no room) have classes of their own.
"""

from __future__ import annotations


class OrchestratorError(Exception):
    """The base of all errors of this package."""


class SchemaError(OrchestratorError, TypeError):
    """A Python type that can't be a message, or bytes that are no schema."""


class _AtPlace(OrchestratorError, ValueError):
    """An error somewhere inside a value."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: list[str] = []

    def within(self, place: str) -> "_AtPlace":
        """The same error, seen from one level further out."""
        self.path.insert(0, place)
        return self

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {self.problem}" if self.path else self.problem


class EncodeError(_AtPlace):
    """A value that does not fit its type, such as 300 in a `UInt8`; `path` says where it stands."""


class DecodeError(_AtPlace):
    """A payload that is not a value of its type. Only that message is lost; the input goes on."""


class ProtocolError(OrchestratorError):
    """The other side does not keep to the protocol, or speaks another version of it."""


class ConnectError(OrchestratorError):
    """There is no connection to the daemon, and why."""


class NotStartedByOrchestrator(ConnectError):
    """The program was not started by an orchestrator, so it does not know its daemon."""


class Refused(ConnectError):
    """The daemon refused the connection; `code` is one of PROTOCOL.md's error codes."""

    def __init__(self, code: int, message: str, causes: list[str]) -> None:
        super().__init__(_sentence("the daemon refused: " + message, causes))
        self.code, self.causes = code, causes


class DeclareError(OrchestratorError):
    """A type can't be declared: its name is taken, or there are too many."""


class Disconnected(OrchestratorError, ConnectionError):
    """There is no connection to the daemon now. It is being made again: wait for it with
    `Runtime.wait_connected` and send again."""


class TimedOut(OrchestratorError, TimeoutError):
    """What was waited for did not happen in time. Nothing was sent or received."""


class Stopped(OrchestratorError):
    """The program was asked to stop, see `Runtime.stop_on`, while it waited."""


class Closed(OrchestratorError):
    """The runtime was closed."""


class RequestError(OrchestratorError):
    """A privileged request failed; `code` is one of PROTOCOL.md's error codes, or 0 if the daemon
    did not answer it."""

    def __init__(self, code: int, message: str, causes: list[str]) -> None:
        super().__init__(_sentence(message, causes))
        self.code, self.causes = code, causes


def _sentence(message: str, causes: list[str]) -> str:
    return ": ".join([message, *causes])
