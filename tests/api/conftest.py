from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from api.app import create_app
from api.deps import Resources
from api.settings import ApiSettings
from store.database import Database
from store.migrate import upgrade
from store.queue import QUEUES
from store.tables import Artifact
from tests.store.rows import claim_job

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # starlette would rather have a client that is not installed
    from starlette.testclient import TestClient

MODEL = bytes(range(256)) * 400


@dataclass
class Api:
    """The application under test, and the ends that its users do not see."""

    http: TestClient
    resources: Resources
    settings: ApiSettings

    @property
    def database(self) -> Database:
        return self.resources.database

    def upload(self, content: bytes = b"weights", **fields: Any) -> dict[str, Any]:
        data = {"architecture": "cifar/resnet20", **fields}
        response = self.http.post("/v1/checkpoints", files={"file": content}, data=data)
        assert response.status_code in (200, 201), response.text
        return dict(response.json())

    def submit(self, checkpoint_id: str, **body: Any) -> dict[str, Any]:
        response = self.http.post("/v1/jobs", json={"checkpoint_id": checkpoint_id, "bits": "w4a4", **body})
        assert response.status_code == 202, response.text
        return dict(response.json())

    def make_ready(self, checkpoint_id: str) -> None:
        with self.database.write() as work:
            assert work.checkpoints.mark_ready(checkpoint_id, {"parameters": 3})

    def succeed(self, job_id: str) -> str:
        """As a worker would: claims, publishes `model.onnx` and a report; returns the file's sha256."""
        with self.resources.blobs.writer() as writer:
            writer.write(MODEL)
            blob = writer.commit()
        with self.database.write() as work:
            claim = claim_job(work, job_id, "test", 60)
            assert claim is not None
            model = Artifact(
                name="model.onnx",
                blob_sha256=blob.sha256,
                bytes=blob.size,
                media_type="application/octet-stream",
            )
            assert work.jobs.succeed(job_id, claim.fence, {"version": 1, "bits": "w4a4"}, [model])
        return blob.sha256

    def succeeded_job(self) -> tuple[str, str]:
        """The id of a succeeded job, and the sha256 of its model."""
        checkpoint = self.upload()
        if checkpoint["state"] == "pending":
            self.make_ready(checkpoint["id"])
        job = self.submit(checkpoint["id"])
        return job["id"], self.succeed(job["id"])

    def queued(self) -> dict[str, int]:
        """How many messages wait in each queue that has any."""
        with redis.Redis.from_url(self.settings.broker_url) as server:
            waiting = {name: int(server.llen(name)) for name in QUEUES}
        return {name: count for name, count in waiting.items() if count}

    def stored_files(self) -> list[Path]:
        root = Path(self.settings.data_dir) / "blobs"
        return [path for path in root.rglob("*") if path.is_file()]


def _serve(settings: ApiSettings) -> Iterator[Api]:
    upgrade(settings.database_url)
    app = create_app(settings)
    with TestClient(app, raise_server_exceptions=False) as http:
        yield Api(http, app.state.resources, settings)


@dataclass
class Keyed(Api):
    """The application where calls need a key."""

    def key(self, owner: str, *, expires_at: datetime | None = None) -> tuple[str, str]:
        """A new key, and its id."""
        with self.database.write() as work:
            row, key = work.keys.create(owner, None, expires_at)
        return key, row.id

    @contextmanager
    def calling_as(self, owner: str) -> Iterator[None]:
        """All calls in between carry a key of that owner."""
        self.http.headers["Authorization"] = f"Bearer {self.key(owner)[0]}"
        try:
            yield
        finally:
            del self.http.headers["Authorization"]


@pytest.fixture
def serve(tmp_path: Path, broker_url: str) -> Iterator[Callable[..., Keyed]]:
    """Serves with the given settings; else on SQLite, with keys, and a broker that counted no calls."""
    with redis.Redis.from_url(broker_url) as server:
        server.flushdb()
    with ExitStack() as stack:

        def start(**changes: Any) -> Keyed:
            given = {"data_dir": tmp_path, "broker_url": broker_url, "auth": "required", **changes}
            api = stack.enter_context(contextmanager(_serve)(ApiSettings(**given)))
            return Keyed(api.http, api.resources, api.settings)

        yield start


@pytest.fixture
def api(tmp_path: Path, broker_url: str) -> Iterator[Api]:
    """The API on SQLite, a local folder, and a real broker that is empty."""
    with redis.Redis.from_url(broker_url) as server:
        server.flushdb()
    settings = ApiSettings(data_dir=tmp_path, broker_url=broker_url, max_upload_bytes=2_000_000)
    yield from _serve(settings)


@pytest.fixture
def api_on(tmp_path: Path, broker_url: str, database_url: str) -> Iterator[Api]:
    """The same on SQLite and again on PostgreSQL."""
    settings = ApiSettings(
        data_dir=tmp_path, broker_url=broker_url, database_url=database_url, max_upload_bytes=2_000_000
    )
    yield from _serve(settings)
