"""Checkpoints and datasets: kept once by content and fields, found, listed, deleted."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from api.deps import Caller, Resources
from api.errors import NotFound
from api.schemas.uploads import CheckpointFields, DatasetFields
from api.services import quota
from api.services.dispatch import announce_checkpoint, announce_dataset
from store.blobs import BlobWriter
from store.database import UnitOfWork
from store.repositories import UploadRepository, UploadRow
from store.tables import Checkpoint, Dataset, new_id


def save_checkpoint(
    resources: Resources, caller: Caller, fields: CheckpointFields, file: BlobWriter
) -> tuple[Checkpoint, bool]:
    """The checkpoint of these bytes and fields, and whether it is new."""
    with resources.database.write() as work:
        quota.lock(work, resources.access, caller)
        row, new = put_checkpoint(work, resources, caller, fields, file)
    announce_checkpoint(resources.queue, row)
    return row, new


def save_dataset(
    resources: Resources, caller: Caller, fields: DatasetFields, file: BlobWriter
) -> tuple[Dataset, bool]:
    """The dataset of these bytes and fields, and whether it is new."""
    with resources.database.write() as work:
        quota.lock(work, resources.access, caller)
        row, new = put_dataset(work, resources, caller, fields, file)
    announce_dataset(resources.queue, row)
    return row, new


def put_checkpoint(
    work: UnitOfWork, resources: Resources, caller: Caller, fields: CheckpointFields, file: BlobWriter
) -> tuple[Checkpoint, bool]:
    row = checkpoint_row(caller, fields, file)
    return _put(work, work.checkpoints, resources, caller, row, file)


def put_dataset(
    work: UnitOfWork, resources: Resources, caller: Caller, fields: DatasetFields, file: BlobWriter
) -> tuple[Dataset, bool]:
    return _put(work, work.datasets, resources, caller, dataset_row(caller, fields, file), file)


def checkpoint_row(caller: Caller, fields: CheckpointFields, file: BlobWriter) -> Checkpoint:
    network = fields.network().to_json()
    return Checkpoint(
        id=new_id("ckpt"),
        name=fields.name,
        architecture=fields.architecture,
        network=network,
        **_common(caller, file, ["checkpoint", fields.name, network]),
    )


def dataset_row(caller: Caller, fields: DatasetFields, file: BlobWriter) -> Dataset:
    return Dataset(
        id=new_id("data"),
        name=fields.name,
        classes=fields.classes,
        **_common(caller, file, ["dataset", fields.name, fields.classes]),
    )


def check_room(work: UnitOfWork, resources: Resources, caller: Caller, *rows: Checkpoint | Dataset) -> None:
    """Raises QuotaExceeded unless those of the rows that are new fit, all together."""
    size = 0
    for row in rows:
        known: UploadRepository[Any] = work.checkpoints if isinstance(row, Checkpoint) else work.datasets
        if known.by_fingerprint(row.fingerprint) is None:
            size += row.bytes
    quota.check_room(work, resources.access, caller, size)


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
    resources: Resources,
    caller: Caller,
    row: UploadRow,
    file: BlobWriter,
) -> tuple[UploadRow, bool]:
    # Under the lock no other transaction adds the same row or drops the bytes.
    work.lock_blob(row.blob_sha256)
    known = repository.by_fingerprint(row.fingerprint)
    if known is None:
        quota.check_room(work, resources.access, caller, row.bytes)
    if known is None or not resources.blobs.exists(row.blob_sha256):
        file.commit()
    held = repository.hold(known.id, known.owner) if known is not None else None
    return (held, False) if held is not None else (repository.add(row), True)


def find(repository: UploadRepository[UploadRow], caller: Caller, id: str) -> UploadRow:
    row = repository.get(id, caller.owner)
    if row is None:
        raise not_found(repository.noun, id)
    return row


def delete(
    resources: Resources, work: UnitOfWork, repository: UploadRepository[UploadRow], caller: Caller, id: str
) -> None:
    """Raises NotFound, and InUse while an unfinished job needs it. The bytes go with their last row."""
    sha256 = find(repository, caller, id).blob_sha256
    work.lock_blob(sha256)
    if not repository.delete(id):
        raise not_found(repository.noun, id)
    if not work.blob_in_use(sha256):
        resources.blobs.delete(sha256)


def not_found(noun: str, id: str) -> NotFound:
    return NotFound(f"There is no {noun} {id}.")
