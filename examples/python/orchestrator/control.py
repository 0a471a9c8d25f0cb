"""What privileged instances ask for and are told: the tables of PROTOCOL.md, as dataclasses.

Times are milliseconds since 1970 (UTC). Ids are 16 bytes on the wire and `uuid.UUID` in what
`Runtime` returns.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Optional, Union
from uuid import UUID

from .kinds import Int32, UInt16, UInt32, UInt64, unnamed


class Priority(enum.Enum):
    """How much of the processor an instance gets when there is not enough: nice −10, 0 or 10."""

    HIGH = "High"
    NORMAL = "Normal"
    LOW = "Low"


class Desired(enum.Enum):
    """Whether an instance should run."""

    STOPPED = "Stopped"
    RUNNING = "Running"


# Exit


@unnamed
@dataclass(frozen=True)
class Code:
    """It exited with this code, 0 to 255."""

    code: Int32


@dataclass(frozen=True)
class Signal:
    """This signal ended it, see signal(7)."""

    signal: Int32
    core_dumped: bool


@dataclass(frozen=True)
class Unknown:
    """It ended while nobody was there who could learn how."""


@dataclass(frozen=True)
class OutOfMemory:
    """The kernel killed it because it reached this limit, bytes; `None` if something around it had
    no memory left."""

    limit: Optional[UInt64]


Exit = Union[Code, Signal, Unknown, OutOfMemory]
"""How a process ended."""


# Observed


@dataclass(frozen=True)
class Stopped:
    """Nobody started it, or somebody stopped it."""

    last_exit: Optional[Exit]
    at_ms: Optional[UInt64]


@dataclass(frozen=True)
class Waiting:
    """It should run, but something that it needs is not there."""

    on: str
    since_ms: UInt64


@dataclass(frozen=True)
class Starting:
    """Its program is being executed, or it runs and is not ready yet."""

    pid: Optional[UInt32]
    since_ms: UInt64


@dataclass(frozen=True)
class Ready:
    """Its main process runs and is ready."""

    pid: UInt32
    since_ms: UInt64


@dataclass(frozen=True)
class Unhealthy:
    """Its main process runs and is not well."""

    pid: UInt32
    since_ms: UInt64
    reason: str


@dataclass(frozen=True)
class Stopping:
    """It was asked to stop, or its main process ended, and some of its processes are left."""

    pid: Optional[UInt32]
    since_ms: UInt64


@dataclass(frozen=True)
class BackOff:
    """It has failed, or ended, and will be started again."""

    reason: str
    last_exit: Optional[Exit]
    until_ms: UInt64
    attempt: UInt32


@dataclass(frozen=True)
class Completed:
    """Its process ended by itself, and that is no failure."""

    exit: Exit
    at_ms: UInt64


@dataclass(frozen=True)
class Failed:
    """It has failed, and is not started again by itself."""

    reason: str
    exit: Optional[Exit]
    at_ms: UInt64


@dataclass(frozen=True)
class Scheduled:
    """A schedule of which no run is under way."""

    next_ms: Optional[UInt64]


Observed = Union[
    Stopped,
    Waiting,
    Starting,
    Ready,
    Unhealthy,
    Stopping,
    BackOff,
    Completed,
    Failed,
    Scheduled,
]
"""Whether an instance runs."""


# Schedules and replicas


class Overlap(enum.Enum):
    """What happens when it is time for a run, and the one before is not over."""

    SKIP = "Skip"
    QUEUE = "Queue"
    REPLACE = "Replace"


@dataclass(frozen=True)
class Schedule:
    """When an instance runs, again and again."""

    expression: str
    time_zone: Optional[str]
    overlap: Overlap
    catch_up: bool


@dataclass(frozen=True)
class RunCompleted:
    """The run's process ended by itself, and that is no failure."""

    exit: Exit


@dataclass(frozen=True)
class RunFailed:
    """The run has failed, for good."""

    reason: str
    exit: Optional[Exit]


@dataclass(frozen=True)
class RunStopped:
    """Somebody stopped the run, or the next one took its place."""


@dataclass(frozen=True)
class LastRun:
    """The last run that is over."""

    began_ms: UInt64
    ended_ms: UInt64
    result: Union[RunCompleted, RunFailed, RunStopped]


@dataclass(frozen=True)
class ScheduleInfo:
    """When an instance ran last and runs next."""

    schedule: Schedule
    next_ms: Optional[UInt64]
    last: Optional[LastRun]
    skipped: UInt64


@dataclass(frozen=True)
class Replica:
    """Which replica of which set an instance is; the first has the index 1."""

    set: str
    index: UInt32


@dataclass(frozen=True)
class RuntimeInfo:
    """One instance, as `Runtime.list` tells of it."""

    id_bytes: bytes
    name: Optional[str]
    program: bytes
    """The path that is executed; the kernel's paths are not always UTF-8."""
    desired: Desired
    observed: Observed
    priority: Priority
    privileged: bool
    starts: UInt64
    """How many times its program was executed."""
    connections: UInt32
    """Connections to its sockets that are open."""
    status: str
    """How it is, in its own words, see sd_notify(3); at most 512 bytes."""
    schedule: Optional[ScheduleInfo]
    replica: Optional[Replica]

    @property
    def id(self) -> UUID:
        """Its id."""
        return UUID(bytes=self.id_bytes)

    def __post_init__(self) -> None:
        if len(self.id_bytes) != 16:
            raise ValueError("the id of an instance has 16 bytes")


# Requests and replies


@dataclass(frozen=True)
class WireError:
    """What failed: a code for programs, a sentence for people, and the nearest cause first."""

    code: UInt16
    message: str
    causes: list[str]


@dataclass(frozen=True)
class StartRequest:
    """Starts an instance, unless it runs."""

    instance: str
    priority: Optional[Priority]


@dataclass(frozen=True)
class StopRequest:
    """Stops an instance, unless it does not run."""

    instance: str


@dataclass(frozen=True)
class ListRequest:
    """All instances."""


RuntimeRequest = Union[StartRequest, StopRequest, ListRequest]


@dataclass(frozen=True)
class StartedReply:
    """It runs."""

    id_bytes: bytes


@dataclass(frozen=True)
class StoppedReply:
    """It does not run any more."""

    id_bytes: bytes


@unnamed
@dataclass(frozen=True)
class ListReply:
    """All instances, the oldest first."""

    instances: list[RuntimeInfo]


RuntimeReply = Union[StartedReply, StoppedReply, ListReply]
