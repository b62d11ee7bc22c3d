"""What the database and the blob store really hold, read past the product's own code."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Row, select, union
from sqlalchemy.exc import DBAPIError

from faults.servers import BUCKET, s3_client
from store.database import make_engine
from store.tables import Artifact, Checkpoint, Dataset, Job, JobEvent, UploadPart
from store.transitions import ENDED


@dataclass(frozen=True, slots=True)
class Event:
    at: datetime
    kind: str
    data: dict[str, Any]

    @property
    def value(self) -> str:
        """The status or phase that it tells of."""
        return str(self.data.get(self.kind))

    @property
    def ends(self) -> bool:
        return self.kind == "status" and self.value in ENDED


class Records:
    """Reads outlive a restart of the database."""

    def __init__(self, database_url: str, folder: Path, s3_env: Mapping[str, str]) -> None:
        self._engine = make_engine(database_url)
        self._folder, self._s3_env = folder, s3_env

    def close(self) -> None:
        self._engine.dispose()

    def _rows(self, query: Any, patience: float = 30) -> Sequence[Row[Any]]:
        end = time.monotonic() + patience
        while True:
            try:
                with self._engine.connect() as connection:
                    return connection.execute(query).all()
            except DBAPIError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def job(self, id: str) -> Row[Any]:
        columns = (Job.status, Job.phase, Job.attempt, Job.worker, Job.error, Job.progress)
        (row,) = self._rows(select(*columns).where(Job.id == id))
        return row

    def whole_job(self, id: str) -> dict[str, Any]:
        """The row, its events and its artifacts: equal before and after, or something wrote."""
        (row,) = self._rows(select(Job.__table__).where(Job.id == id))
        artifacts = self._rows(
            select(Artifact.__table__).where(Artifact.job_id == id).order_by(Artifact.name)
        )
        return {
            "row": dict(row._mapping),
            "events": self.events(id),
            "artifacts": [dict(artifact._mapping) for artifact in artifacts],
        }

    def jobs(self) -> Sequence[Row[Any]]:
        return self._rows(select(Job.id, Job.status, Job.attempt, Job.error, Job.worker).order_by(Job.id))

    def decided_at(self, checkpoint_id: str) -> datetime:
        """When its inspection, which has ended, wrote what it found."""
        ((at,),) = self._rows(select(Checkpoint.updated_at).where(Checkpoint.id == checkpoint_id))
        assert isinstance(at, datetime)
        return at

    def events(self, job_id: str) -> list[Event]:
        query = select(JobEvent.at, JobEvent.kind, JobEvent.data).where(JobEvent.job_id == job_id)
        return [Event(row.at, row.kind, row.data) for row in self._rows(query.order_by(JobEvent.id))]

    def artifacts(self, job_id: str) -> dict[str, str]:
        """Name -> sha256."""
        query = select(Artifact.name, Artifact.blob_sha256).where(Artifact.job_id == job_id)
        return {row.name: row.blob_sha256 for row in self._rows(query)}

    def named_blobs(self) -> set[str]:
        """What rows refer to."""
        columns = (
            Checkpoint.blob_sha256,
            Dataset.blob_sha256,
            Artifact.blob_sha256,
            UploadPart.blob_sha256,
            Job.resume_sha256,
        )
        names = union(*(select(column).where(column.is_not(None)) for column in columns))
        return {name for (name,) in self._rows(names)}

    def stored_blobs(self) -> set[str]:
        """What lies in the store, half-written files with it."""
        return {key.rpartition("/")[2] for key in self._keys()}

    def _keys(self) -> Iterator[str]:
        if not self._s3_env:
            yield from (str(path) for path in self._folder.rglob("*") if path.is_file())
            return
        pages = s3_client(self._s3_env).get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=BUCKET):
            yield from (found["Key"] for found in page.get("Contents", []))
