"""The two kinds of upload, and all in which they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

from api.schemas.common import Fields
from api.schemas.uploads import CheckpointFields, CheckpointOut, DatasetFields, DatasetOut, UploadOut
from store.database import UnitOfWork
from store.repositories import UploadRepository, UploadRow
from store.tables import Checkpoint, Dataset, new_id


@dataclass(frozen=True, slots=True)
class Kind(Generic[Fields, UploadRow]):
    """`make` gives a row what comes from the fields; `meaning` is what of it tells it from other rows of
    the same bytes, beside its name."""

    noun: str
    purpose: str
    fields: type[Fields]
    out: type[UploadOut]
    rows: Callable[[UnitOfWork], UploadRepository[UploadRow]]
    make: Callable[[Fields], UploadRow]
    meaning: Callable[[UploadRow], Any]

    @property
    def path(self) -> str:
        return f"/v1/{self.noun}s"

    def link(self, id: str) -> str:
        return f"{self.path}/{id}"


def _checkpoint(fields: CheckpointFields) -> Checkpoint:
    return Checkpoint(
        id=new_id("ckpt"),
        name=fields.name,
        architecture=fields.architecture,
        network=fields.network().to_json(),
    )


def _dataset(fields: DatasetFields) -> Dataset:
    return Dataset(id=new_id("data"), name=fields.name, classes=fields.classes)


CHECKPOINT: Kind[CheckpointFields, Checkpoint] = Kind(
    noun="checkpoint",
    purpose="a state dict",
    fields=CheckpointFields,
    out=CheckpointOut,
    rows=lambda work: work.checkpoints,
    make=_checkpoint,
    meaning=lambda row: row.network,
)
DATASET: Kind[DatasetFields, Dataset] = Kind(
    noun="dataset",
    purpose="a labelled evaluation set, used only to measure",
    fields=DatasetFields,
    out=DatasetOut,
    rows=lambda work: work.datasets,
    make=_dataset,
    meaning=lambda row: row.classes,
)
KINDS: Mapping[str, Kind[Any, Any]] = {kind.noun: kind for kind in (CHECKPOINT, DATASET)}
