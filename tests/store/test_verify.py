from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from store.blob_repository import Named
from store.blobs import make_blobs
from store.database import Database
from store.tables import Artifact, Base, Checkpoint, Dataset, Job, PartialUpload, UploadPart, new_id, utc_now
from store.verify import verify


class Kept:
    """One row of every kind that names a blob, and the blobs."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.blobs = make_blobs(folder.as_uri())
        common = {"bytes": 1, "state": "ready"}
        checkpoint = Checkpoint(
            id=new_id("ckpt"),
            blob_sha256=self.put(b"checkpoint"),
            fingerprint=new_id("f"),
            architecture="cifar/resnet8",
            network={},
            **common,
        )
        dataset = Dataset(
            id=new_id("data"), blob_sha256=self.put(b"dataset"), fingerprint=new_id("f"), **common
        )
        self.job = Job(
            id=new_id("job"), spec={}, method="zaq", resume_sha256=self.put(b"resume"), status="running"
        )
        partial = PartialUpload(
            id=new_id("up"), owner="local", kind="checkpoint", fields={}, length=1, expires_at=utc_now()
        )
        with database.write() as work:
            for row in (checkpoint, dataset, self.job, partial):
                work.checkpoints._session.add(row)
            work.checkpoints._session.flush()
            work.checkpoints._session.add_all(
                [
                    Artifact(
                        job_id=self.job.id,
                        name="model.onnx",
                        blob_sha256=self.put(b"artifact"),
                        bytes=1,
                        media_type="application/octet-stream",
                    ),
                    UploadPart(upload_id=partial.id, offset=0, blob_sha256=self.put(b"part"), bytes=1),
                ]
            )

    def put(self, data: bytes) -> str:
        with self.blobs.writer() as writer:
            writer.write(data)
            return writer.commit().sha256

    def named(self) -> list[Named]:
        with self.database.read() as work:
            return list(work.blobs.named())

    def path(self, named: Named) -> Path:
        path = self.blobs.local_path(named.sha256)
        assert path is not None
        return path


@pytest.fixture
def kept(database: Database, tmp_path: Path) -> Kept:
    return Kept(database, tmp_path / "blobs")


def test_every_column_that_can_name_a_blob_is_looked_at(kept: Kept) -> None:
    columns = [
        column
        for table in Base.metadata.tables.values()
        for column in table.columns
        if column.name in ("blob_sha256", "resume_sha256")
    ]
    assert len(kept.named()) == len(columns) == 5
    assert verify(kept.database, kept.blobs, deep=True) == (5, [])


@pytest.mark.parametrize("which", range(5))
def test_what_is_missing_is_found(kept: Kept, which: int) -> None:
    named = kept.named()[which]
    kept.path(named).unlink()
    count, (fault,) = verify(kept.database, kept.blobs)
    assert (count, fault.what, fault.sha256, fault.named) == (5, "missing", named.sha256, (named,))
    assert fault.serious == ("goes on from" not in named.by)


def test_what_is_damaged_is_found_by_reading_it(kept: Kept) -> None:
    named = kept.named()[0]
    kept.path(named).write_bytes(b"checkpoinT")
    assert verify(kept.database, kept.blobs)[1] == []
    (fault,) = verify(kept.database, kept.blobs, deep=True)[1]
    assert (fault.what, fault.named) == ("damaged", (named,))


def test_as_a_command(kept: Kept, database_url: str) -> None:
    environment = {**os.environ, "ZSQ_DATABASE_URL": database_url, "ZSQ_BLOBS_URL": kept.folder.as_uri()}

    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "store.verify", *arguments]
        ran = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2]
        )
        return ran.returncode, ran.stdout

    assert run() == (0, "5 blobs are named, 0 of them missing or damaged\n")
    resume = next(named for named in kept.named() if not named.needed)
    kept.path(resume).unlink()
    code, said = run()
    assert code == 0 and f"missing {resume.sha256}" in said and "begins anew" in said
    checkpoint = kept.named()[0]
    kept.path(checkpoint).write_bytes(b"other")
    code, said = run("--deep")
    assert code == 1 and f"damaged {checkpoint.sha256}: {checkpoint.by}" in said
