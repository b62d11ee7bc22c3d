"""The tables. Times are timezone-aware UTC on both databases; JSON keeps the order of its keys.

Checkpoint ──< Job >── Dataset          an upload is pending, then ready or rejected
                ├──< JobEvent           what happened, in order
                ├──< Artifact           what a succeeded job published, by name
                └──< WebhookDelivery    who is to be told of its end
PartialUpload ──< UploadPart            a resumable upload, until it is a checkpoint or dataset
"""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

JsonObject = dict[str, Any]


def new_id(prefix: str) -> str:
    """`job` -> `job_0196f0c2a1b3…`: 48 bits of milliseconds, then 48 random ones, in hex.

    Ids sort by the time they were made, so lists page by id alone.
    """
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"


def utc_now() -> datetime:
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """SQLite drops the timezone: stored as UTC, read back as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(none_as_null=True),
        dict[str, str]: JSON(none_as_null=True),
        list[str]: JSON(none_as_null=True),
    }


class Upload(Base):
    """What checkpoints and datasets share. `fingerprint`: sha256 over owner, bytes and fields.

    `attempts` counts how often an inspection has begun.
    """

    __abstract__ = True

    id: Mapped[str] = mapped_column(String(40), primary_key=True, sort_order=-1)
    owner: Mapped[str] = mapped_column(String(64), default="local")
    name: Mapped[str | None] = mapped_column(String(255))
    blob_sha256: Mapped[str] = mapped_column(String(64), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    fingerprint: Mapped[str] = mapped_column(String(64), unique=True)
    state: Mapped[str] = mapped_column(String(16), default="pending")
    error: Mapped[JsonObject | None]
    inspection: Mapped[JsonObject | None]
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class Checkpoint(Upload):
    """`network` is the NetworkSpec as it was sent; what inspection found stands in `inspection`."""

    __tablename__ = "checkpoint"
    __table_args__ = (Index(None, "owner", "id"),)

    architecture: Mapped[str] = mapped_column(String(128))
    network: Mapped[JsonObject]


class Dataset(Upload):
    """A labelled set, used only to measure. `classes` are folder names in label order, if given."""

    __tablename__ = "dataset"
    __table_args__ = (Index(None, "owner", "id"),)

    classes: Mapped[list[str] | None]


class Job(Base):
    """`spec` is a QuantizationSpec. `fence` rises with every claim; a worker's writes must carry it.

    `progress` is {fraction, step, steps, eta_seconds}, `error` {code, detail, retryable, field}.
    A finished job outlives its checkpoint and dataset.

    `digest` names what is to be computed, whoever asks: bytes, fields and spec. `device` is where it
    may run: any, cpu or gpu. `handbacks` counts the attempts that a worker which was told to stop gave
    back; `ran_seconds` is how long its process ran so far, in all attempts, and none begins before
    `not_before`.
    `resume_sha256` is the blob that the next attempt goes on from. `request_id` and `traceparent` are
    those of the request that submitted it.
    """

    __tablename__ = "job"
    __table_args__ = (
        Index(None, "owner", "id"),
        Index(None, "owner", "digest"),
        Index(None, "status", "lease_expires_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), default="local")
    checkpoint_id: Mapped[str | None] = mapped_column(
        ForeignKey("checkpoint.id", ondelete="SET NULL"), index=True
    )
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("dataset.id", ondelete="SET NULL"), index=True)
    spec: Mapped[JsonObject]
    labels: Mapped[dict[str, str]] = mapped_column(default=dict)
    method: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str | None] = mapped_column(String(64))
    device: Mapped[str] = mapped_column(String(8), default="any", server_default="any")
    webhook_url: Mapped[str | None] = mapped_column(String(2048))
    request_id: Mapped[str | None] = mapped_column(String(128))
    traceparent: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16), default="queued")
    phase: Mapped[str | None] = mapped_column(String(32))
    progress: Mapped[JsonObject] = mapped_column(default=dict)
    metrics: Mapped[JsonObject] = mapped_column(default=dict)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    handbacks: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    fence: Mapped[int] = mapped_column(Integer, default=0)
    worker: Mapped[str | None] = mapped_column(String(255))
    lease_expires_at: Mapped[datetime | None]
    enqueued_at: Mapped[datetime | None] = mapped_column(default=utc_now)
    not_before: Mapped[datetime | None]
    ran_seconds: Mapped[float] = mapped_column(Float, default=0.0, server_default="0")
    resume_sha256: Mapped[str | None] = mapped_column(String(64), index=True)
    cancel_requested_at: Mapped[datetime | None]
    error: Mapped[JsonObject | None]
    report: Mapped[JsonObject | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


class JobEvent(Base):
    """`kind` is "status" or "phase"; `data` names the new value and what belongs to it."""

    __tablename__ = "job_event"
    __table_args__ = (Index(None, "job_id", "id"),)

    # SQLite numbers rows by itself only when the column is INTEGER.
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True
    )
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(default=utc_now)
    kind: Mapped[str] = mapped_column(String(16))
    data: Mapped[JsonObject]


class Artifact(Base):
    __tablename__ = "artifact"

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    blob_sha256: Mapped[str] = mapped_column(String(64), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class ApiKey(Base):
    """`hash` is the sha256 of the whole key, which is shown once and never kept."""

    __tablename__ = "api_key"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str | None] = mapped_column(String(255))
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """The answer that a client's `Idempotency-Key` was given, kept with the job that it made."""

    __tablename__ = "idempotency_key"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    status: Mapped[int] = mapped_column(Integer)
    response: Mapped[JsonObject]
    created_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)


class PartialUpload(Base):
    """A resumable upload: `offset` of `length` bytes have come; `resource_id` is what became of it."""

    __tablename__ = "partial_upload"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    fields: Mapped[dict[str, str]]
    length: Mapped[int] = mapped_column(BigInteger)
    offset: Mapped[int] = mapped_column(BigInteger, default=0)
    resource_id: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class UploadPart(Base):
    """What one request brought of a resumable upload."""

    __tablename__ = "upload_part"

    upload_id: Mapped[str] = mapped_column(
        ForeignKey("partial_upload.id", ondelete="CASCADE"), primary_key=True
    )
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    blob_sha256: Mapped[str] = mapped_column(String(64), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)


class WebhookSecret(Base):
    """What an owner's webhooks are signed with."""

    __tablename__ = "webhook_secret"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    secret: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class WebhookDelivery(Base):
    """`status` is pending, delivered or failed; a pending one is due at `next_at`."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (Index(None, "status", "next_at"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), index=True)
    url: Mapped[str] = mapped_column(String(2048))
    payload: Mapped[JsonObject]
    status: Mapped[str] = mapped_column(String(16), default="pending")
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    error: Mapped[str | None] = mapped_column(String(500))
    next_at: Mapped[datetime] = mapped_column(default=utc_now)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
