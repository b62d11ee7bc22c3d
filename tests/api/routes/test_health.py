from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from starlette.testclient import TestClient

from api.app import create_app
from store.database import Database
from store.migrate import alembic_config
from tests.api.conftest import Api
from tests.api.problems import problem


@contextmanager
def served(api: Api, **update: Any) -> Iterator[TestClient]:
    with TestClient(create_app(api.settings.model_copy(update=update))) as http:
        yield http


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """Of a server that accepts every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def down(body: dict[str, Any]) -> list[str]:
    return [name for name, check in body["checks"].items() if not check["ok"]]


def test_ready_when_all_answer(api_on: Api) -> None:
    assert api_on.http.get("/healthz").json() == {"status": "ok"}
    body = api_on.http.get("/readyz")
    assert body.status_code == 200
    assert {name: check["ok"] for name, check in body.json()["checks"].items()} == {
        "database": True,
        "migrations": True,
        "broker": True,
        "blobs": True,
    }


def test_not_ready_names_what_is_away(api: Api) -> None:
    away = {
        "database": {"database_url": "postgresql://u:secret@127.0.0.1:1/db"},
        "broker": {"broker_url": "redis://:secret@127.0.0.1:1/0"},
    }
    for name, update in away.items():
        with served(api, **update) as http:
            response = http.get("/readyz")
            assert down(problem(response, 503, "service_unavailable")) == [name]
            assert response.headers["retry-after"]
            assert "secret" not in response.text
            assert http.get("/healthz").status_code == 200


def test_a_part_that_hangs_does_not_hang_the_answer(api: Api, deaf_port: int) -> None:
    """Ten askers at a time hold no thread more than one asker would."""
    hanging = {
        "database": {"database_url": f"postgresql://u:p@127.0.0.1:{deaf_port}/db"},
        "broker": {"broker_url": f"redis://127.0.0.1:{deaf_port}/0"},
    }
    for name, update in hanging.items():
        with served(api, **update) as http:
            found: list[list[str]] = []

            def ask(http: TestClient = http, found: list[list[str]] = found) -> None:
                found.append(down(http.get("/readyz").json()))

            askers = [threading.Thread(target=ask) for _ in range(10)]
            for asker in askers:
                asker.start()
            probes = {thread.name for thread in threading.enumerate() if thread.name.startswith("probe")}
            for asker in askers:
                asker.join(30)
            assert found == [[name]] * 10
            assert len(probes) <= 4
            stuck = [thread for thread in threading.enumerate() if thread.name == f"probe {name}"]
            assert len(stuck) <= 1


def test_a_database_that_lacks_migrations_is_not_ready(api_on: Api) -> None:
    config = alembic_config()
    database: Database = api_on.database
    with database.writing_engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    body = problem(api_on.http.get("/readyz"), 503, "service_unavailable")
    assert "migrations" in down(body)
    assert "store.migrate" in body["checks"]["migrations"]["detail"]


def test_a_database_that_is_newer_is_ready(api: Api) -> None:
    """Migrations come first, and the servers of the version before must go on until they are replaced."""
    with api.database.writing_engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'from_the_future'")
    response = api.http.get("/readyz")
    assert response.status_code == 200
    assert "newer" in response.json()["checks"]["migrations"]["detail"]


def test_blobs_that_cannot_be_written_are_not_ready(api: Api) -> None:
    folder = Path(api.settings.data_dir) / "blobs"
    (folder / "incoming").rmdir()
    assert down(problem(api.http.get("/readyz"), 503, "service_unavailable")) == ["blobs"]
    (folder / "incoming").mkdir()
    assert api.http.get("/readyz").status_code == 200
