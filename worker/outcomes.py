"""How a child may end, why it may be stopped, and how long it may take."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from worker.failures import Failure

MIN_SECONDS = 0.01


class Stop(enum.Enum):
    """Why the parent wants the child to end."""

    CANCELED = "canceled by its owner"
    LOST = "the lease was lost: somebody else runs the job now"
    HANDED_BACK = "this worker is shutting down"


@dataclass(frozen=True, slots=True)
class Finished:
    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    failure: Failure


@dataclass(frozen=True, slots=True)
class Stopped:
    reason: Stop


Outcome = Finished | Failed | Stopped


@dataclass(frozen=True, slots=True)
class Limit:
    """`seconds` for the whole job, of which earlier attempts took `spent`; `field` names the user's option,
    if it was theirs."""

    seconds: float
    field: str | None = None
    spent: float = 0.0

    @property
    def left(self) -> float:
        """Never none at all: then too the child is started, and says itself that its time is over."""
        return max(self.seconds - self.spent, MIN_SECONDS)
