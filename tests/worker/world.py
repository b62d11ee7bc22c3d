"""A worker's surroundings without a broker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.spec import BitSpec, MinMaxConfig, QuantizationSpec
from store.blobs import LocalBlobs
from store.database import Database, make_engine
from store.settings import StoreSettings
from store.tables import Checkpoint, Dataset, Job, new_id
from worker.services import Services
from worker.settings import WorkerSettings


class RecordingQueue:
    """In place of the broker: remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    def quantize(self, job_id: str, device: str = "any") -> None:
        self.sent.append(("quantize" if device == "any" else f"quantize on {device}", job_id))

    def inspect_checkpoint(self, id: str) -> None:
        self.sent.append(("inspect_checkpoint", id))

    def inspect_dataset(self, id: str) -> None:
        self.sent.append(("inspect_dataset", id))


class World:
    """A worker's services over a real, migrated database and a real blob folder."""

    def __init__(self, data_dir: Path, database_url: str) -> None:
        store = StoreSettings(data_dir=data_dir, database_url=database_url, lease_seconds=30)
        self.queue = RecordingQueue()
        self.services = Services(
            database=Database(make_engine(store.database_url)),
            blobs=LocalBlobs(data_dir / "blobs"),
            queue=self.queue,  # type: ignore[arg-type]
            store=store,
            settings=WorkerSettings(
                heartbeat_seconds=0.1,
                cancel_grace_seconds=0.5,
                shutdown_grace_seconds=0.5,
                retry_seconds=1000,
                retry_max_seconds=4000,
                torch_threads=1,
            ),
        )

    def blob(self, data: bytes) -> str:
        with self.services.blobs.writer() as writer:
            writer.write(data)
            return writer.commit().sha256

    def checkpoint(self, data: bytes = b"weights", state: str = "ready") -> str:
        row = Checkpoint(
            id=new_id("ckpt"),
            blob_sha256=self.blob(data),
            bytes=len(data),
            fingerprint=new_id("f"),
            state=state,
            architecture="cifar/resnet8",
            network={"architecture": "cifar/resnet8"},
        )
        with self.services.database.write() as work:
            return work.checkpoints.add(row).id

    def dataset(self, data: bytes = b"images", state: str = "ready") -> str:
        row = Dataset(
            id=new_id("data"),
            blob_sha256=self.blob(data),
            bytes=len(data),
            fingerprint=new_id("f"),
            state=state,
        )
        with self.services.database.write() as work:
            return work.datasets.add(row).id

    def configure(self, **settings: Any) -> None:
        changed = self.services.settings.model_copy(update=settings)
        self.services = replace(self.services, settings=changed)

    def job(
        self,
        checkpoint_id: str | None = None,
        dataset_id: str | None = None,
        device: str = "any",
        **spec: Any,
    ) -> str:
        wanted = QuantizationSpec(bits=BitSpec(4, 4), method=MinMaxConfig(), **spec)
        row = Job(
            id=new_id("job"),
            checkpoint_id=checkpoint_id or self.checkpoint(),
            dataset_id=dataset_id,
            spec=wanted.to_json(),
            method="minmax",
            device=device,
        )
        with self.services.database.write() as work:
            return work.jobs.add(row).id

    def look(self, job_id: str) -> Job:
        with self.services.database.read() as work:
            job = work.jobs.get(job_id)
        assert job is not None
        return job

    def alter(self, job_id: str, **values: Any) -> None:
        """Sets columns, as time or another process would."""
        with self.services.database.write() as work:
            for name, value in values.items():
                setattr(work.jobs.get(job_id), name, value)

    def change(self, change: Callable[[Any], Any]) -> Any:
        with self.services.database.write() as work:
            return change(work)
