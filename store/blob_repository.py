"""Which rows name which bytes, and the lock under which that changes.

Whoever adds a row that names a blob writes the bytes, then takes the lock, makes sure that they are still
there, and adds the row in the same transaction (`naming`). Whoever deletes bytes takes the lock first, and
finds no row (`garbage`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sqlalchemy import select, union
from sqlalchemy.orm import InstrumentedAttribute, Session

from store.locks import Lock, lock
from store.tables import Artifact, Checkpoint, Dataset, Job, UploadPart


@dataclass(frozen=True, slots=True)
class Reference:
    """A column that names blobs; `by` says of which row, from `keys`.

    What is not `needed` costs time when it is gone, and nothing else.
    """

    column: InstrumentedAttribute[str] | InstrumentedAttribute[str | None]
    by: str
    keys: tuple[InstrumentedAttribute[str], ...]
    needed: bool = True


# Every column that names a blob.
REFERENCES = (
    Reference(Checkpoint.blob_sha256, "checkpoint {}", (Checkpoint.id,)),
    Reference(Dataset.blob_sha256, "dataset {}", (Dataset.id,)),
    Reference(Artifact.blob_sha256, "{} of job {}", (Artifact.name, Artifact.job_id)),
    Reference(UploadPart.blob_sha256, "part of upload {}", (UploadPart.upload_id,)),
    Reference(Job.resume_sha256, "what job {} goes on from", (Job.id,), needed=False),
)


@dataclass(frozen=True, slots=True)
class Named:
    """A blob and one row that names it; `by` is for people, `needed` as in Reference."""

    sha256: str
    by: str
    needed: bool = True


class BlobRepository:
    def __init__(self, session: Session) -> None:
        self._session = session

    def lock(self, *sha256s: str) -> None:
        """Until the transaction ends, no other one adds or drops references to these bytes."""
        lock(self._session, Lock.BLOB, *sha256s)

    def in_use(self, sha256s: Collection[str]) -> set[str]:
        """Those that any row names."""
        columns = [each.column for each in REFERENCES]
        named = union(*(select(column).where(column.in_(sha256s)) for column in columns))
        return set(self._session.scalars(named))

    def named(self) -> Iterator[Named]:
        """Every row that names a blob: the same bytes may come more than once."""
        for each in REFERENCES:
            query = select(each.column, *each.keys).where(each.column.is_not(None))
            for sha256, *keys in self._session.execute(query):
                yield Named(str(sha256), each.by.format(*keys), each.needed)

    def of_job(self, job_id: str) -> set[str]:
        """What the job's own rows name: its artifacts, and what its next attempt would go on from."""
        artifacts = select(Artifact.blob_sha256).where(Artifact.job_id == job_id)
        resume = select(Job.resume_sha256).where(Job.id == job_id, Job.resume_sha256.is_not(None))
        return set(self._session.scalars(union(artifacts, resume)))
