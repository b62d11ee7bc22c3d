"""What the server answers, as typed values.

Every class keeps the whole answer in `raw`: a newer server may say more than this client knows, and
what an older one leaves out is None here, never an error. Times are aware datetimes in UTC, sizes
are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

ENDED = frozenset({"succeeded", "failed", "canceled"})


def _time(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed or a file was rejected. `retryable`: the same job may succeed if run again."""

    code: str
    detail: str
    retryable: bool = False
    field: str | None = None

    @classmethod
    def from_json(cls, data: Any) -> Self | None:
        if not isinstance(data, Mapping):
            return None
        return cls(
            code=str(data.get("code", "internal_error")),
            detail=str(data.get("detail", "")),
            retryable=bool(data.get("retryable", False)),
            field=data.get("field"),
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """`fraction` is of the whole job, in [0, 1]; `step` of `steps` counts within the phase."""

    fraction: float = 0.0
    step: int = 0
    steps: int = 0
    eta_seconds: float | None = None

    @classmethod
    def from_json(cls, data: Any) -> Self:
        found = _mapping(data)
        return cls(
            fraction=float(found.get("fraction") or 0.0),
            step=int(found.get("step") or 0),
            steps=int(found.get("steps") or 0),
            eta_seconds=found.get("eta_seconds"),
        )


@dataclass(frozen=True, slots=True)
class Upload:
    """A checkpoint or a dataset. `state` is `pending`, `ready`, or `rejected` (with `error`).

    `architecture` is None for a dataset. `inspection` is what was found in a ready file.
    """

    id: str
    name: str | None
    state: str
    bytes: int | None
    error: Failure | None
    created_at: datetime | None
    architecture: str | None = None
    inspection: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            id=str(data["id"]),
            name=data.get("name"),
            state=str(data.get("state", "pending")),
            bytes=data.get("bytes"),
            error=Failure.from_json(data.get("error")),
            created_at=_time(data.get("created_at")),
            architecture=data.get("architecture"),
            inspection=_mapping(data.get("inspection")),
            raw=data,
        )


class Checkpoint(Upload):
    """An uploaded network."""

    __slots__ = ()


class Dataset(Upload):
    """An uploaded labelled evaluation set."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class BegunUpload:
    """A resumable upload: `offset` of `length` bytes have come. `kind` is `checkpoint` or `dataset`.

    `state` is `receiving`, or `joining` when all have come. It is gone at `expires_at`, unless more come.
    """

    id: str
    kind: str
    state: str
    offset: int | None
    length: int | None
    created_at: datetime | None
    expires_at: datetime | None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            id=str(data["id"]),
            kind=str(data["kind"]),
            state=str(data.get("state", "receiving")),
            offset=data.get("offset"),
            length=data.get("length"),
            created_at=_time(data.get("created_at")),
            expires_at=_time(data.get("expires_at")),
            raw=data,
        )


@dataclass(frozen=True, slots=True)
class Job:
    """One quantization. `status`: queued, running, succeeded, failed, canceled; `metrics`: current losses.

    `duplicate_of`, of a job that was just submitted: an earlier one that computes the same, or has.
    """

    id: str
    status: str
    phase: str | None
    progress: Progress
    metrics: Mapping[str, Any]
    attempt: int
    error: Failure | None
    method: str | None
    checkpoint_id: str | None
    created_at: datetime | None
    finished_at: datetime | None
    duplicate_of: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        method = data.get("method", _mapping(data.get("spec")).get("method"))
        return cls(
            id=str(data["id"]),
            status=str(data["status"]),
            phase=data.get("phase"),
            progress=Progress.from_json(data.get("progress")),
            metrics=_mapping(data.get("metrics")),
            attempt=int(data.get("attempt") or 0),
            error=Failure.from_json(data.get("error")),
            method=method.get("name") if isinstance(method, Mapping) else method,
            checkpoint_id=data.get("checkpoint_id"),
            created_at=_time(data.get("created_at")),
            finished_at=_time(data.get("finished_at")),
            duplicate_of=data.get("duplicate_of"),
            raw=data,
        )


@dataclass(frozen=True, slots=True)
class JobEvent:
    """What happened to a job. `event` is `status` (with `status`), `phase`, or `progress`, of how far it is.

    `id` is where to go on behind it; a `progress` event has that of the event before it.
    """

    event: str
    id: str | None
    at: datetime | None
    status: str | None
    phase: str | None
    attempt: int | None
    progress: Progress
    metrics: Mapping[str, Any]
    error: Failure | None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ended(self) -> bool:
        """Whether the job has ended with it: it is the last event."""
        return self.status in ENDED

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, event: str, id: str | None) -> Self:
        return cls(
            event=event,
            id=id,
            at=_time(data.get("at")),
            status=data.get("status"),
            phase=data.get("phase"),
            attempt=data.get("attempt"),
            progress=Progress.from_json(data.get("progress")),
            metrics=_mapping(data.get("metrics")),
            error=Failure.from_json(data.get("error")),
            raw=data,
        )


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file that a job made; `sha256` is in hex."""

    name: str
    bytes: int | None
    sha256: str | None
    media_type: str | None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            name=str(data["name"]),
            bytes=data.get("bytes"),
            sha256=data.get("sha256") or data.get("blob_sha256"),
            media_type=data.get("media_type"),
        )
