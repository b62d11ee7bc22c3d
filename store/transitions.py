"""The states of a job and the ways between them.

queued ──claim──> running ──> succeeded
  │  ^               │  ├───> failed
  │  └───requeue─────┘  └───> canceled
  └──> canceled, failed (what it needs was rejected)
"""

from __future__ import annotations

from collections.abc import Mapping

TRANSITIONS: Mapping[str, frozenset[str]] = {
    "queued": frozenset({"running", "canceled", "failed"}),
    "running": frozenset({"queued", "succeeded", "failed", "canceled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "canceled": frozenset(),
}

STATUSES = tuple(TRANSITIONS)
ENDED = frozenset(status for status, ways in TRANSITIONS.items() if not ways)
UNFINISHED = frozenset(TRANSITIONS) - ENDED


def sources(status: str) -> frozenset[str]:
    """The statuses from which a job may become `status`."""
    return frozenset(source for source, ways in TRANSITIONS.items() if status in ways)
