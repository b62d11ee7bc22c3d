"""Queries over resumable uploads: what has come of each, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from store.paging import page
from store.tables import PartialUpload, UploadPart, utc_now


def begun(owner: str) -> tuple[ColumnElement[bool], ...]:
    """Which uploads the owner has begun that are no checkpoint or dataset yet, and may still become one."""
    return (
        PartialUpload.owner == owner,
        PartialUpload.resource_id.is_(None),
        PartialUpload.expires_at > utc_now(),
    )


class PartialUploadRepository:
    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: PartialUpload) -> PartialUpload:
        self._session.add(row)
        self._session.flush()
        return row

    def get(self, id: str, owner: str) -> PartialUpload | None:
        query = select(PartialUpload).where(PartialUpload.id == id, PartialUpload.owner == owner)
        return self._session.scalars(query).one_or_none()

    def page(
        self, owner: str, limit: int, after: str | None = None
    ) -> tuple[Sequence[PartialUpload], str | None]:
        """Those that the owner has begun, newest first; `after` is the cursor of the page before."""
        return page(self._session, select(PartialUpload).where(*begun(owner)), PartialUpload.id, limit, after)

    def hold(self, id: str, owner: str) -> PartialUpload | None:
        """As `get`, and nobody else appends to it or ends it until this transaction ends."""
        query = select(PartialUpload).where(PartialUpload.id == id, PartialUpload.owner == owner)
        held = query.with_for_update().execution_options(populate_existing=True)
        return self._session.scalars(held).one_or_none()

    def append(self, upload: PartialUpload, sha256: str, size: int, expires_at: datetime) -> None:
        """One more part behind the others; the upload must be held."""
        self._session.add(
            UploadPart(upload_id=upload.id, offset=upload.offset, blob_sha256=sha256, bytes=size)
        )
        upload.offset += size
        upload.expires_at = expires_at
        self._session.flush()

    def parts(self, id: str) -> Sequence[UploadPart]:
        """In the order of their bytes."""
        query = select(UploadPart).where(UploadPart.upload_id == id)
        return self._session.scalars(query.order_by(UploadPart.offset)).all()

    def count_parts(self, id: str) -> int:
        return self._session.scalar(select(func.count()).where(UploadPart.upload_id == id)) or 0

    def complete(self, upload: PartialUpload, resource_id: str) -> None:
        """It has become this checkpoint or dataset: its parts are no longer needed."""
        upload.resource_id = resource_id
        self._session.execute(delete(UploadPart).where(UploadPart.upload_id == upload.id))
        self._session.flush()

    def delete(self, id: str) -> None:
        """With its parts."""
        self._session.execute(delete(PartialUpload).where(PartialUpload.id == id))
