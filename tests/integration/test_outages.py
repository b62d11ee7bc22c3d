"""Database, broker and blobs go away under a running service, and come back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from starlette.testclient import TestClient

from api.app import create_app
from api.deps import Resources
from api.settings import ApiSettings
from store.migrate import upgrade
from store.queue import CONTROL_QUEUE
from tests.api.problems import problem
from tests.servers import Postgres, Valkey, postgres, valkey
from tests.waiting import until


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[Postgres]:
    """`postgres_url` is asked for because it makes the user that PostgreSQL runs as."""
    with postgres() as server:
        upgrade(server.url)
        yield server


@pytest.fixture(scope="module")
def broker() -> Iterator[Valkey]:
    with valkey() as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, database: Postgres, broker: Valkey) -> ApiSettings:
    return ApiSettings(data_dir=tmp_path, database_url=database.url, broker_url=broker.url)


@pytest.fixture
def http(settings: ApiSettings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def upload(http: TestClient, content: bytes = b"weights") -> Any:
    return http.post("/v1/checkpoints", files={"file": content}, data={"architecture": "cifar/resnet20"})


def calls(http: TestClient, checkpoint_id: str) -> dict[str, Callable[[], Any]]:
    return {
        "list": lambda: http.get("/v1/jobs"),
        "show": lambda: http.get("/v1/checkpoints/ckpt_1"),
        "submit": lambda: http.post("/v1/jobs", json={"checkpoint_id": checkpoint_id, "bits": "w4a4"}),
        "upload": lambda: upload(http, os.urandom(64)),
        "delete": lambda: http.delete("/v1/checkpoints/ckpt_1"),
        "cancel": lambda: http.post("/v1/jobs/job_1/cancel"),
    }


def threads(prefix: str) -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith(prefix)]


def test_a_database_that_stops_is_503_everywhere_and_comes_back_by_itself(
    http: TestClient, database: Postgres, tmp_path: Path
) -> None:
    checkpoint_id = upload(http).json()["id"]
    resources = http.app.state.resources  # type: ignore[attr-defined]
    assert isinstance(resources, Resources)
    database.stop()
    try:
        for _ in range(2):  # with connections that were cut, and without any
            for name, call in calls(http, checkpoint_id).items():
                response = call()
                problem(response, 503, "service_unavailable")
                assert response.headers["retry-after"], name
        with ThreadPoolExecutor(30) as pool:
            found = list(pool.map(lambda _: http.get("/v1/jobs").status_code, range(120)))
        assert set(found) == {503}
        checks = problem(http.get("/readyz"), 503, "service_unavailable")["checks"]
        assert [name for name, check in checks.items() if not check["ok"]] == ["database"]
        assert http.get("/healthz").status_code == 200
        assert http.get("/metrics").status_code == 200
    finally:
        database.start()
    until(lambda: http.get("/readyz").status_code == 200)
    assert http.get("/v1/jobs").status_code == 200
    assert calls(http, checkpoint_id)["submit"]().status_code == 202
    kept = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert len(kept) == 1, "of the uploads that were refused nothing is kept"
    assert resources.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert threads("probe") == []


def test_a_database_that_hangs_does_not_hang_what_watches(http: TestClient, database: Postgres) -> None:
    """More calls than there are threads wait for it; whether the process lives is still told."""
    assert http.get("/v1/jobs").status_code == 200
    with ThreadPoolExecutor(60) as pool:
        with database.frozen():
            waiting = [pool.submit(http.get, "/v1/jobs") for _ in range(60)]
            until(lambda: not any(call.running() is False for call in waiting))
            assert http.get("/healthz").status_code == 200
            for _ in range(3):
                checks = problem(http.get("/readyz"), 503, "service_unavailable")["checks"]
                assert not checks["database"]["ok"] and checks["broker"]["ok"] and checks["blobs"]["ok"]
            assert len(threads("probe database")) <= 1
            assert "zsq_jobs{" not in http.get("/metrics").text
        found = {call.result(60).status_code for call in waiting}
    assert found <= {200, 503}
    until(lambda: http.get("/readyz").status_code == 200)
    until(lambda: threads("probe") == [])
    resources = http.app.state.resources  # type: ignore[attr-defined]
    assert resources.database.engine.pool.checkedout() == 0


def test_without_a_broker_jobs_are_taken_and_messages_come_later(http: TestClient, broker: Valkey) -> None:
    process = psutil.Process()
    assert upload(http, b"before").status_code == 201
    broker.stop()
    try:
        before = process.num_fds()
        for number in range(5):
            response = upload(http, f"while it was away {number}".encode())
            assert response.status_code == 201
            submit = calls(http, response.json()["id"])["submit"]
            assert submit().status_code == 202
        checks = problem(http.get("/readyz"), 503, "service_unavailable")["checks"]
        assert [name for name, check in checks.items() if not check["ok"]] == ["broker"]
        assert process.num_fds() <= before + 5, "no socket is left behind by an attempt"
    finally:
        broker.start()
    until(lambda: http.get("/readyz").status_code == 200)
    assert upload(http, b"after").status_code == 201
    with redis.Redis.from_url(broker.url) as server:
        assert server.llen(CONTROL_QUEUE) == 1, "messages flow again"


def test_without_blobs_an_upload_is_503_and_nothing_is_half_kept(http: TestClient, tmp_path: Path) -> None:
    blobs, away = tmp_path / "blobs", tmp_path / "away"
    before = http.get("/v1/checkpoints?limit=200").json()["items"]
    blobs.rename(away)
    blobs.touch()  # a mount that is gone: there is something, and it cannot be used
    try:
        response = upload(http, b"homeless")
        problem(response, 503, "service_unavailable")
        assert response.headers["retry-after"]
        assert http.get("/v1/jobs").status_code == 200, "what needs no blobs goes on"
        checks = problem(http.get("/readyz"), 503, "service_unavailable")["checks"]
        assert [name for name, check in checks.items() if not check["ok"]] == ["blobs"]
    finally:
        blobs.unlink()
        away.rename(blobs)
    assert http.get("/v1/checkpoints?limit=200").json()["items"] == before
    assert [path for path in blobs.rglob("*") if path.is_file()] == []
    assert upload(http, b"homeless").status_code == 201


@pytest.fixture
def worker(settings: ApiSettings) -> Iterator[psutil.Popen]:
    environment = {
        **os.environ,
        "ZSQ_DATA_DIR": str(settings.data_dir),
        "ZSQ_DATABASE_URL": settings.database_url,
        "ZSQ_BROKER_URL": settings.broker_url,
        "ZSQ_SWEEP_SECONDS": "0.5",
        "ZSQ_LEASE_SECONDS": "3",
        "ZSQ_HEARTBEAT_SECONDS": "0.5",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    log = Path(settings.data_dir) / "worker.log"
    with log.open("wb") as file:
        process = psutil.Popen(
            [sys.executable, "-m", "worker", "control"],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=settings.data_dir,
        )
    try:
        until(lambda: "ready." in log.read_text())
        yield process
    finally:
        family = [process, *process.children(recursive=True)]
        process.terminate()
        psutil.wait_procs([process], timeout=20)
        for each in family:
            if each.is_running():
                each.kill()


def state(http: TestClient, checkpoint_id: str) -> str:
    return str(http.get(f"/v1/checkpoints/{checkpoint_id}").json().get("state"))


def test_a_worker_outlives_both_without_spinning_and_goes_on(
    http: TestClient, worker: psutil.Popen, database: Postgres, broker: Valkey
) -> None:
    first = upload(http, b"read while all is well").json()["id"]
    until(lambda: state(http, first) == "rejected")

    database.stop()
    try:
        began, used = time.monotonic(), sum(worker.cpu_times()[:2])
        until(lambda: time.monotonic() - began > 4)
        share = (sum(worker.cpu_times()[:2]) - used) / (time.monotonic() - began)
        assert worker.is_running() and share < 0.5, "it waits instead of spinning"
    finally:
        database.start()
    second = upload(http, b"read after the database came back").json()["id"]
    until(lambda: state(http, second) == "rejected")

    broker.stop()
    try:
        third = upload(http, b"its message is lost").json()["id"]
        began, used = time.monotonic(), sum(worker.cpu_times()[:2])
        until(lambda: time.monotonic() - began > 4)
        share = (sum(worker.cpu_times()[:2]) - used) / (time.monotonic() - began)
        assert worker.is_running() and share < 0.5
    finally:
        broker.start()
    until(lambda: state(http, third) == "rejected")
    assert worker.is_running()
