"""Which rows name which bytes, and the lock under which that changes.

Whoever adds a row that names a blob takes its lock first, makes sure that the bytes are there, and
adds the row in the same transaction. Whoever deletes bytes takes the lock first, and finds no row.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection

from sqlalchemy import select, text, union
from sqlalchemy.orm import InstrumentedAttribute, Session

from store.tables import Artifact, Checkpoint, Dataset, Job, UploadPart

# Every column that names a blob.
BLOB_COLUMNS: tuple[InstrumentedAttribute[str] | InstrumentedAttribute[str | None], ...] = (
    Checkpoint.blob_sha256,
    Dataset.blob_sha256,
    Artifact.blob_sha256,
    UploadPart.blob_sha256,
    Job.resume_sha256,
)


class BlobRepository:
    def __init__(self, session: Session) -> None:
        self._session = session

    def lock(self, *sha256s: str) -> None:
        """Until the transaction ends, no other one adds or drops references to these bytes.

        SQLite's writing transactions exclude each other, from where they begin.
        """
        connection = self._session.connection()  # begins it, where nothing else has yet
        if connection.dialect.name == "postgresql":
            # In one order, or two that lock the same ones could wait for each other.
            for key in sorted({zlib.crc32(sha256.encode()) - 2**31 for sha256 in sha256s}):
                self._session.execute(text("SELECT pg_advisory_xact_lock(2, :key)"), {"key": key})

    def in_use(self, sha256s: Collection[str]) -> set[str]:
        """Those that any row names."""
        named = union(*(select(column).where(column.in_(sha256s)) for column in BLOB_COLUMNS))
        return set(self._session.scalars(named))

    def of_job(self, job_id: str) -> set[str]:
        """What the job's own rows name: its artifacts, and what its next attempt would go on from."""
        artifacts = select(Artifact.blob_sha256).where(Artifact.job_id == job_id)
        resume = select(Job.resume_sha256).where(Job.id == job_id, Job.resume_sha256.is_not(None))
        return set(self._session.scalars(union(artifacts, resume)))
