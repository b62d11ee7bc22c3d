"""Every blob that a row names, and which row that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.tables import Artifact, Checkpoint, Dataset, Job, UploadPart


@dataclass(frozen=True, slots=True)
class Named:
    """`by` is for people. What is not `needed` costs time when it is gone, and nothing else."""

    sha256: str
    by: str
    needed: bool = True


class Inventory:
    def __init__(self, session: Session) -> None:
        self._session = session

    def named(self) -> Iterator[Named]:
        """The same bytes may come more than once."""
        for noun, query in (
            ("checkpoint", select(Checkpoint.blob_sha256, Checkpoint.id)),
            ("dataset", select(Dataset.blob_sha256, Dataset.id)),
            ("part of upload", select(UploadPart.blob_sha256, UploadPart.upload_id)),
        ):
            for sha256, id in self._session.execute(query.execution_options(yield_per=1000)):
                yield Named(str(sha256), f"{noun} {id}")
        artifacts = select(Artifact.blob_sha256, Artifact.job_id, Artifact.name)
        for sha256, job_id, name in self._session.execute(artifacts.execution_options(yield_per=1000)):
            yield Named(str(sha256), f"{name} of job {job_id}")
        resumed = select(Job.resume_sha256, Job.id).where(Job.resume_sha256.is_not(None))
        for resume, id in self._session.execute(resumed.execution_options(yield_per=1000)):
            yield Named(str(resume), f"what job {id} goes on from", needed=False)
