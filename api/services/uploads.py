"""Checkpoints and datasets: kept once by content and fields, found, deleted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from api.deps import Caller, Resources
from api.errors import NotFound
from api.schemas.common import Fields
from api.services import quota
from api.services.dispatch import announce_upload
from api.services.kinds import KINDS, Kind
from store.blobs import BlobRef
from store.database import UnitOfWork
from store.errors import Unavailable
from store.garbage import delete_now
from store.naming import hold_blobs
from store.repositories import UploadRepository, UploadRow
from store.tables import Upload


class Content(Protocol):
    """Bytes that have come whole; they stay when they are committed."""

    @property
    def sha256(self) -> str: ...
    @property
    def size(self) -> int: ...
    def commit(self) -> BlobRef: ...


def save(
    resources: Resources, caller: Caller, kind: Kind[Fields, UploadRow], fields: Fields, file: Content
) -> tuple[UploadRow, bool]:
    """The row of these bytes and fields, and whether it is new. Raises QuotaExceeded."""
    row = made(caller, kind, fields, file)
    with in_place(resources, file), resources.database.write() as work:
        quota.lock(work, resources.access, caller)
        check_room(work, resources, caller, row)
        row, new = put(work, resources, kind, row, file)
    announce_upload(resources.queue, row)
    return row, new


@dataclass(slots=True)
class Placed:
    """`needed`: rows name the bytes, as far as the block knows."""

    needed: bool = True


@contextmanager
def in_place(resources: Resources, *files: Content) -> Iterator[Placed]:
    """Puts the bytes in place before the transaction that names them: nobody should wait for a copy in S3.

    Even bytes that are known: what has been damaged since is mended by that. They go again when the block
    refuses what they are for, or says that they are not `needed`, unless others name them.
    """
    resources.database.ping()  # while there is nobody to name bytes, none are kept
    placed, sums = Placed(), {file.sha256 for file in files}
    try:
        for file in files:
            file.commit()
        yield placed
    except Unavailable:  # so would be what it takes to remove them: the collector will
        raise
    except BaseException:
        delete_now(resources.database, resources.blobs, sums)
        raise
    if not placed.needed:
        delete_now(resources.database, resources.blobs, sums)


def made(caller: Caller, kind: Kind[Fields, UploadRow], fields: Fields, file: Content) -> UploadRow:
    """The row as it would be, were it new; not yet in the database."""
    row = kind.make(fields)
    row.owner, row.state = caller.owner, "pending"
    row.blob_sha256, row.bytes = file.sha256, file.size
    row.fingerprint = _fingerprint(row.owner, row.blob_sha256, kind.noun, row.name, kind.meaning(row))
    return row


def check_room(work: UnitOfWork, resources: Resources, caller: Caller, *rows: Upload) -> None:
    """Raises QuotaExceeded unless those of the rows that are new fit, all together."""
    size = 0
    for row in rows:
        known = KINDS[type(row).__tablename__].rows(work).by_fingerprint(row.fingerprint)
        size += row.bytes if known is None else 0
    quota.check_room(work, resources.access, caller, size)


def put(
    work: UnitOfWork, resources: Resources, kind: Kind[Any, UploadRow], row: UploadRow, file: Content
) -> tuple[UploadRow, bool]:
    """As `save`, within a transaction that has seen to the room, of a file that is `in_place`;
    `announce_upload` is for after it.

    What was rejected is pending again: who sends it once more may hope for another answer, since this
    server may know more by now, and a reader may have crashed for other reasons than the file. So may who
    sends once more what is pending: its inspections count anew.
    """
    rows = kind.rows(work)
    # Under their lock no other transaction adds the same row or drops the bytes.
    hold_blobs(work, resources.blobs, {row.blob_sha256: file.commit})
    known = rows.by_fingerprint(row.fingerprint)
    held = rows.hold(known.id, known.owner) if known is not None else None
    if held is None:
        return rows.add(row), True
    rows.renew(held)
    return held, False


def _fingerprint(*identity: Any) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def find(repository: UploadRepository[UploadRow], caller: Caller, id: str) -> UploadRow:
    row = repository.get(id, caller.owner)
    if row is None:
        raise not_found(repository.noun, id)
    return row


def delete(resources: Resources, caller: Caller, kind: Kind[Any, Any], id: str) -> None:
    """Raises NotFound, and InUse while an unfinished job needs it. The bytes go with their last row."""
    with resources.database.write() as work:
        rows = kind.rows(work)
        sha256 = find(rows, caller, id).blob_sha256
        if not rows.delete(id):
            raise not_found(kind.noun, id)
    delete_now(resources.database, resources.blobs, [sha256])


def not_found(noun: str, id: str) -> NotFound:
    return NotFound(f"There is no {noun} {id}.")
