"""What one owner takes: the sums that limits are checked against."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.partial_upload_repository import begun
from store.tables import Checkpoint, Dataset, Job, PartialUpload


class UsageRepository:
    def __init__(self, session: Session) -> None:
        self._session = session

    def stored_bytes(self, owner: str) -> int:
        """Checkpoints, datasets, and all that unfinished uploads have announced.

        One statement, which sees one moment: what becomes a checkpoint meanwhile counts once.
        """
        sums = [select(func.sum(table.bytes)).where(table.owner == owner) for table in (Checkpoint, Dataset)]
        sums.append(select(func.sum(PartialUpload.length)).where(*begun(owner)))
        terms = select(*(func.coalesce(each.scalar_subquery(), 0) for each in sums))
        return sum(int(term) for term in self._session.execute(terms).one())

    def begun_uploads(self, owner: str) -> int:
        return self._session.scalar(select(func.count()).where(*begun(owner))) or 0

    def queued_jobs(self, owner: str) -> int:
        queued = select(func.count()).select_from(Job).where(Job.owner == owner, Job.status == "queued")
        return self._session.scalar(queued) or 0
