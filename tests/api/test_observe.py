from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from api.app import create_app
from store.logging import log_fields
from tests.api.conftest import Api
from tests.api.problems import problem


class Lines(logging.Handler):
    """Every record, with what was bound when it was written."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append({**log_fields(), **record.__dict__, "message": record.getMessage()})

    def access(self) -> list[dict[str, Any]]:
        return [line for line in self.found if line["name"] == "api.access"]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, root = Lines(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


def test_the_callers_id_is_in_answer_problem_and_job(api: Api) -> None:
    checkpoint = api.upload()
    mine = {"X-Request-ID": "Deploy:42_a.b-c"}
    accepted = api.http.post(
        "/v1/jobs", json={"checkpoint_id": checkpoint["id"], "bits": "w4a4"}, headers=mine
    )
    assert accepted.headers["x-request-id"] == mine["X-Request-ID"]
    with api.database.read() as work:
        job = work.jobs.get(accepted.json()["id"])
    assert job is not None and job.request_id == mine["X-Request-ID"]
    missing = api.http.get("/v1/jobs/job_none", headers=mine)
    assert problem(missing, 404, "not_found")["request_id"] == mine["X-Request-ID"]


@pytest.mark.parametrize("unfit", ["", "x" * 129, "two words", "a\tb", 'a"b', "é".encode("latin-1"), "a,b"])
def test_an_id_unfit_for_logs_is_replaced(api: Api, unfit: Any) -> None:
    found = api.http.get("/v1/jobs", headers={"X-Request-ID": unfit}).headers["x-request-id"]
    assert len(found) == 32 and int(found, 16)
    assert api.http.get("/v1/jobs").headers["x-request-id"] != found


def test_every_kind_of_answer_has_an_id(api: Api) -> None:
    app = create_app(api.settings)

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("unforeseen")

    with TestClient(app, raise_server_exceptions=False) as http:
        for path, status in (("/broken", 500), ("/nothing", 404), ("/static/none", 404), ("/healthz", 200)):
            response = http.get(path, headers={"X-Request-ID": "mine"})
            assert (response.status_code, response.headers["x-request-id"]) == (status, "mine"), path
            assert status == 200 or response.json()["request_id"] == "mine"


def test_the_problem_schema_tells_of_the_id(api: Api) -> None:
    schema = api.http.get("/openapi.json").json()["components"]["schemas"]["Problem"]
    assert "request_id" in schema["properties"] and "X-Request-ID" in schema["description"]


def test_one_line_tells_of_a_request_by_its_template(api: Api, lines: Lines) -> None:
    response = api.http.get("/v1/jobs/job_secret", headers={"X-Request-ID": "r1"})
    (line,) = lines.access()
    assert line["message"] == "GET /v1/jobs/{id} 404"
    assert (line["method"], line["route"], line["status"]) == ("GET", "/v1/jobs/{id}", 404)
    assert line["bytes"] == len(response.content) and line["milliseconds"] > 0
    assert (line["request_id"], line["owner"]) == ("r1", "local")
    assert "job_secret" not in str(line["message"])


@pytest.mark.parametrize(
    ("path", "route"), [("/nothing/here", "unmatched"), ("/static/dashboard.js", "/static"), ("/", "/")]
)
def test_what_is_no_call_has_a_bounded_name_too(api: Api, lines: Lines, path: str, route: str) -> None:
    api.http.get(path)
    assert [line["route"] for line in lines.access()] == [route]


def test_watchers_are_no_news_until_they_fail(api: Api, lines: Lines) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert api.http.get(path).status_code == 200
    assert lines.access() == []


def test_lines_of_the_code_inside_carry_the_id(api: Api, lines: Lines) -> None:
    app = create_app(api.settings)

    @app.get("/speaks")
    def speaks() -> None:
        logging.getLogger("api.test").info("in a thread")

    with TestClient(app) as http:
        http.get("/speaks", headers={"X-Request-ID": "r2"})
    assert [line["request_id"] for line in lines.found if line["name"] == "api.test"] == ["r2"]


def test_streams_are_passed_on_piece_by_piece(api: Api, lines: Lines) -> None:
    """A middleware that collects the body would wait for its end, which comes only after the first piece."""
    app = create_app(api.settings)
    received = anyio.Event()

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> Any:
            yield b"first"
            with anyio.fail_after(20):
                await received.wait()
            yield b"second"

        return StreamingResponse(pieces())

    async def read() -> list[bytes]:
        found: list[bytes] = []

        async def send(message: Any) -> None:
            if message.get("body"):
                found.append(message["body"])
                received.set()

        async def receive() -> Any:
            await anyio.sleep_forever()

        scope = {"type": "http", "method": "GET", "path": "/stream", "query_string": b""}
        scope["headers"] = [(b"host", b"testserver")]
        await app(scope, receive, send)
        return found

    assert anyio.run(read) == [b"first", b"second"]
    assert lines.access()[0]["bytes"] == len(b"firstsecond")
