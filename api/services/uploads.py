"""Checkpoints and datasets: kept once by content and fields, found, listed, deleted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from api.deps import Caller, Resources
from api.errors import NotFound
from api.schemas.uploads import CheckpointFields, DatasetFields
from api.services.dispatch import announce_checkpoint, announce_dataset
from store.blobs import BlobWriter
from store.database import UnitOfWork
from store.garbage import delete_now
from store.repositories import UploadRepository, UploadRow
from store.tables import Checkpoint, Dataset, new_id, utc_now


def save_checkpoint(
    resources: Resources, caller: Caller, fields: CheckpointFields, file: BlobWriter
) -> tuple[Checkpoint, bool]:
    """The checkpoint of these bytes and fields, and whether it is new."""
    with resources.database.write() as work:
        row, new = put_checkpoint(work, caller, fields, file)
    announce_checkpoint(resources.queue, row)
    return row, new


def save_dataset(
    resources: Resources, caller: Caller, fields: DatasetFields, file: BlobWriter
) -> tuple[Dataset, bool]:
    """The dataset of these bytes and fields, and whether it is new."""
    with resources.database.write() as work:
        row, new = put_dataset(work, caller, fields, file)
    announce_dataset(resources.queue, row)
    return row, new


def put_checkpoint(
    work: UnitOfWork, caller: Caller, fields: CheckpointFields, file: BlobWriter
) -> tuple[Checkpoint, bool]:
    network = fields.network().to_json()
    row = Checkpoint(
        id=new_id("ckpt"),
        name=fields.name,
        architecture=fields.architecture,
        network=network,
        **_common(caller, file, ["checkpoint", fields.name, network]),
    )
    return _put(work, work.checkpoints, row, file)


def put_dataset(
    work: UnitOfWork, caller: Caller, fields: DatasetFields, file: BlobWriter
) -> tuple[Dataset, bool]:
    row = Dataset(
        id=new_id("data"),
        name=fields.name,
        classes=fields.classes,
        **_common(caller, file, ["dataset", fields.name, fields.classes]),
    )
    return _put(work, work.datasets, row, file)


def _common(caller: Caller, file: BlobWriter, fields: list[Any]) -> dict[str, Any]:
    identity = json.dumps([caller.owner, file.sha256, *fields], sort_keys=True)
    return {
        "owner": caller.owner,
        "blob_sha256": file.sha256,
        "bytes": file.size,
        "state": "pending",
        "fingerprint": hashlib.sha256(identity.encode()).hexdigest(),
    }


def _put(
    work: UnitOfWork,
    repository: UploadRepository[UploadRow],
    row: UploadRow,
    file: BlobWriter,
) -> tuple[UploadRow, bool]:
    # Under the lock no other transaction adds the same row or drops the bytes.
    work.lock_blob(row.blob_sha256)
    # Even if they are known: what has been damaged since is mended by that.
    file.commit()
    known = repository.by_fingerprint(row.fingerprint)
    held = repository.hold(known.id, known.owner) if known is not None else None
    if held is None:
        return repository.add(row), True
    held.updated_at = utc_now()  # retention counts from here
    return held, False


def find(repository: UploadRepository[UploadRow], caller: Caller, id: str) -> UploadRow:
    row = repository.get(id, caller.owner)
    if row is None:
        raise not_found(repository.noun, id)
    return row


def delete(
    resources: Resources,
    repository_of: Callable[[UnitOfWork], UploadRepository[UploadRow]],
    caller: Caller,
    id: str,
) -> None:
    """Raises NotFound, and InUse while an unfinished job needs it. The bytes go with their last row."""
    with resources.database.write() as work:
        repository = repository_of(work)
        sha256 = find(repository, caller, id).blob_sha256
        if not repository.delete(id):
            raise not_found(repository.noun, id)
    delete_now(resources.database, resources.blobs, [sha256])


def not_found(noun: str, id: str) -> NotFound:
    return NotFound(f"There is no {noun} {id}.")
