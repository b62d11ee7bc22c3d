"""docs/guides/backup.md, followed while the service runs."""

from __future__ import annotations

import re
import shutil
import sqlite3
import threading
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from api.app import create_app
from store.blobs import make_blobs
from store.database import Database, make_engine
from store.verify import verify
from tests.api.conftest import MODEL, Api

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "backup.md"


class Writer:
    """Uploads, one after the other, until it is told to stop."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._stop = threading.Event()
        self.done: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.done.append(self._api.upload(f"upload {len(self.done)}".encode())["id"])

    def __enter__(self) -> Writer:
        self._thread.start()
        while len(self.done) < 5:
            assert self._thread.is_alive()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def back_up(data_dir: Path, backup: Path) -> None:
    """The page's own statement for the database, then the blobs."""
    (statement,) = re.findall(r"VACUUM INTO '[^']+'", PAGE.read_text())
    backup.mkdir()
    source = sqlite3.connect(data_dir / "zsq.db")
    source.execute(re.sub(r"'.+'", "?", statement), [str(backup / "zsq.db")])
    source.close()
    shutil.copytree(data_dir / "blobs", backup / "blobs", ignore=shutil.ignore_patterns("incoming"))


def test_a_running_service_is_backed_up_and_restored_elsewhere(api: Api, tmp_path: Path) -> None:
    job_id, sha256 = api.succeeded_job()
    checkpoint_id = api.http.get(f"/v1/jobs/{job_id}").json()["checkpoint_id"]
    backup, elsewhere = tmp_path / "backup", tmp_path / "elsewhere"
    with Writer(api) as writer:
        before = list(writer.done)
        back_up(Path(api.settings.data_dir), backup)
        more = len(writer.done)
        while len(writer.done) < more + 5:
            assert writer._thread.is_alive(), "the service went on"

    shutil.copytree(backup, elsewhere)
    restored = api.settings.model_copy(
        update={
            "data_dir": elsewhere,
            "database_url": f"sqlite:///{elsewhere / 'zsq.db'}",
            "blobs_url": (elsewhere / "blobs").as_uri(),
        }
    )
    database = Database(make_engine(restored.database_url))
    count, faults = verify(database, make_blobs(restored.blobs_url), deep=True)
    assert count >= len(before) + 2 and faults == []
    with TestClient(create_app(restored)) as http:
        assert http.get("/readyz").status_code == 200
        page: dict[str, Any] = http.get("/v1/checkpoints?limit=200").json()
        assert {checkpoint_id, *before} <= {item["id"] for item in page["items"]}
        model = http.get(f"/v1/jobs/{job_id}/artifacts/model.onnx")
        assert model.content == MODEL and model.headers["etag"] == f'"{sha256}"'
    database.dispose()


def test_blobs_before_the_database_would_lose_some(api: Api, tmp_path: Path) -> None:
    """Why the page says which comes first: rows newer than the copied blobs name what is not there."""
    backup = tmp_path / "backup"
    shutil.copytree(Path(api.settings.data_dir) / "blobs", backup / "blobs")
    api.upload(b"after the blobs were copied")
    source = sqlite3.connect(Path(api.settings.data_dir) / "zsq.db")
    source.execute("VACUUM INTO ?", [str(backup / "zsq.db")])
    source.close()
    database = Database(make_engine(f"sqlite:///{backup / 'zsq.db'}"))
    _, faults = verify(database, make_blobs((backup / "blobs").as_uri()))
    assert [fault.what for fault in faults] == ["missing"]
    database.dispose()
