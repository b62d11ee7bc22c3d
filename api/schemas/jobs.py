"""Jobs: what may be asked for, and the resource. The specification itself is core's."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from api.schemas.common import Failure, Label, Name, Time, refuse_unstorable
from api.schemas.uploads import CheckpointFields
from core.spec import AnyBits, AnyExport, AnyMethod, ExportConfig, Limits, QuantizationSpec, ZaqConfig
from store.tables import Artifact, Job, JobEvent
from store.watch_repository import Look

Status = Literal["queued", "running", "succeeded", "failed", "canceled"]
Id = Annotated[str, Field(min_length=1, max_length=64, pattern="^[0-9A-Za-z_]+$")]
Labels = Annotated[dict[Name, Label], Field(max_length=64)]
Device = Literal["any", "cpu", "gpu"]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
REUSE = "Take an earlier job that computes the same, or has, instead of making one."


class Evaluation(BaseModel):
    model_config = ConfigDict(extra="forbid")

    dataset_id: Id


def _callable(url: str) -> str:
    """The networks that an operator allows are known to the service alone, and asked there."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must be an http or https URL, with a host and no spaces")
    if "@" in parts.netloc:
        raise ValueError("must hold no user name or password; deliveries are signed")
    return url


WebhookUrl = Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(_callable)]


class Webhook(BaseModel):
    """Told of the job's end by a signed POST (standardwebhooks.com); see `GET /v1/webhooks/secret`."""

    model_config = ConfigDict(extra="forbid")

    url: WebhookUrl


class JobRequest(BaseModel):
    """`bits` like `"w4a8"` or an object; `method` a name or an object with its options; `export` a profile's
    name or an object; `device` where the job may run."""

    model_config = ConfigDict(extra="forbid")

    checkpoint_id: Id
    bits: AnyBits
    method: AnyMethod = Field(default_factory=ZaqConfig)
    evaluation: Evaluation | None = None
    export: AnyExport = Field(default_factory=ExportConfig)
    seed: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] = 0
    limits: Limits = Field(default_factory=Limits)
    device: Device = "any"
    labels: Labels = Field(default_factory=dict)
    reuse: Annotated[bool, Field(strict=True, description=REUSE)] = False
    webhook: Webhook | None = None

    _storable = model_validator(mode="before")(refuse_unstorable)

    def spec(self) -> QuantizationSpec:
        return QuantizationSpec(self.bits, self.method, self.export, self.seed, self.limits)


def _json_or_text(value: Any) -> Any:
    """A form knows text only: what begins with a brace is read as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            data = json.loads(value)
        except RecursionError:
            raise ValueError("the JSON is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"it begins like a JSON object, but is not valid JSON ({error})") from None
        return refuse_unstorable(data)
    return value


def _url_alone(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


_URL = {"type": "string", "format": "uri", "maxLength": 2048}


class QuantizeFields(CheckpointFields):
    """The one-shot form: a checkpoint's fields and a job's. Objects are given as JSON text."""

    bits: Annotated[AnyBits, BeforeValidator(_json_or_text)]
    method: Annotated[AnyMethod, BeforeValidator(_json_or_text)] = Field(default_factory=ZaqConfig)
    export: Annotated[AnyExport, BeforeValidator(_json_or_text)] = Field(default_factory=ExportConfig)
    seed: Seed = 0
    limits: Annotated[Limits, BeforeValidator(_json_or_text)] = Field(default_factory=Limits)
    device: Device = "any"
    labels: Annotated[Labels, BeforeValidator(_json_or_text)] = Field(default_factory=dict)
    reuse: Annotated[bool, Field(description=REUSE)] = False
    webhook: Annotated[Webhook | None, BeforeValidator(_url_alone), WithJsonSchema(_URL)] = None

    _storable = model_validator(mode="before")(refuse_unstorable)

    def spec(self) -> QuantizationSpec:
        return QuantizationSpec(self.bits, self.method, self.export, self.seed, self.limits)


class Progress(BaseModel):
    """`fraction` is of the whole job, in [0, 1]; `step` of `steps` counts within the phase."""

    fraction: float = 0.0
    step: int = 0
    steps: int = 0
    eta_seconds: float | None = None


class JobOut(BaseModel):
    """`metrics` are the current losses; `attempt` counts how often a worker has started the job."""

    id: str
    status: Status
    phase: str | None
    progress: Progress
    metrics: dict[str, Any]
    attempt: int
    cancel_requested: bool
    error: Failure | None
    checkpoint_id: str | None
    evaluation: Evaluation | None
    bits: dict[str, Any]
    method: dict[str, Any]
    export: dict[str, Any]
    seed: int
    limits: dict[str, Any]
    device: Device
    labels: dict[str, str]
    webhook: Webhook | None
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    updated_at: Time
    links: dict[str, str]

    @classmethod
    def of(cls, row: Job) -> Self:
        same = ["id", "status", "phase", "metrics", "attempt", "error", "checkpoint_id", "device", "labels"]
        same += ["created_at", "started_at", "finished_at", "updated_at"]
        return cls(
            **{name: getattr(row, name) for name in same},
            **{name: row.spec[name] for name in ("bits", "method", "export", "seed", "limits")},
            progress=Progress(**row.progress),
            cancel_requested=row.cancel_requested_at is not None,
            evaluation=Evaluation(dataset_id=row.dataset_id) if row.dataset_id else None,
            webhook=Webhook(url=row.webhook_url) if row.webhook_url else None,
            links=_links(row),
        )


class SubmittedJob(JobOut):
    """`duplicate_of`: an earlier job of yours that computes the same, or has. `reuse` would have given it."""

    duplicate_of: str | None = None

    @classmethod
    def after(cls, row: Job, earlier: Job | None) -> SubmittedJob:
        job = cls.of(row)
        if earlier is None:
            return job
        links = {**job.links, "duplicate_of": f"/v1/jobs/{earlier.id}"}
        return job.model_copy(update={"duplicate_of": earlier.id, "links": links})


def _links(row: Job) -> dict[str, str]:
    itself = f"/v1/jobs/{row.id}"
    links = {"self": itself}
    if row.checkpoint_id:
        links["checkpoint"] = f"/v1/checkpoints/{row.checkpoint_id}"
    if row.dataset_id:
        links["dataset"] = f"/v1/datasets/{row.dataset_id}"
    if row.webhook_url:
        links["deliveries"] = f"{itself}/deliveries"
    if row.status in ("queued", "running"):
        links["cancel"] = f"{itself}/cancel"
    if row.status == "succeeded":
        links |= {"report": f"{itself}/report", "artifacts": f"{itself}/artifacts"}
    return links


class EventData(BaseModel):
    """`status` with `attempt` and, of a failed job, `error`; or `phase`."""

    model_config = ConfigDict(extra="allow")

    at: Time


class EventOut(BaseModel):
    """`event` is `status` or `phase`; ids rise, but not one by one."""

    id: int
    event: str
    data: EventData

    @classmethod
    def of(cls, row: JobEvent) -> Self:
        return cls(id=row.id, event=row.kind, data=EventData(at=row.at, **row.data))


class ProgressOut(BaseModel):
    """The data of a `progress` event."""

    phase: str | None
    attempt: int
    progress: Progress
    metrics: dict[str, Any]

    @classmethod
    def of(cls, look: Look) -> Self:
        return cls(
            phase=look.phase,
            attempt=look.attempt,
            progress=Progress(**look.progress),
            metrics=look.metrics,
        )


class ArtifactOut(BaseModel):
    name: str
    bytes: int
    sha256: str
    media_type: str
    created_at: Time
    href: str

    @classmethod
    def of(cls, row: Artifact) -> ArtifactOut:
        return cls(
            name=row.name,
            bytes=row.bytes,
            sha256=row.blob_sha256,
            media_type=row.media_type,
            created_at=row.created_at,
            href=f"/v1/jobs/{row.job_id}/artifacts/{row.name}",
        )
