"""What one owner takes: the sums that limits are checked against."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.tables import Checkpoint, Dataset, Job, PartialUpload


class UsageRepository:
    def __init__(self, session: Session) -> None:
        self._session = session

    def stored_bytes(self, owner: str) -> int:
        """Checkpoints, datasets, and all that unfinished uploads have announced."""
        sums = [select(func.sum(table.bytes)).where(table.owner == owner) for table in (Checkpoint, Dataset)]
        begun = (PartialUpload.owner == owner, PartialUpload.resource_id.is_(None))
        sums.append(select(func.sum(PartialUpload.length)).where(*begun))
        return sum(int(self._session.scalar(each) or 0) for each in sums)

    def queued_jobs(self, owner: str) -> int:
        queued = select(func.count()).select_from(Job).where(Job.owner == owner, Job.status == "queued")
        return self._session.scalar(queued) or 0
