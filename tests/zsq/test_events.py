"""A job's events in the client, against the real API: it restarts, connections break, jobs go away."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from api.settings import ApiSettings
from store.database import Database, make_engine
from store.migrate import upgrade
from tests.api.serving import Served, free_port, server_process, serving
from tests.cutting_proxy import CuttingProxy
from tests.store.rows import claim_job, queued_job
from zsq.cli import app
from zsq.client import Client
from zsq.errors import ApiError, ClientError, ConnectionLost
from zsq.models import JobEvent

FAILURE = {"code": "diverged", "detail": "It diverged.\u2028Badly.", "retryable": False, "field": None}


@pytest.fixture
def served(tmp_path: Path, broker_url: str) -> Iterator[Served]:
    with serving(ApiSettings(data_dir=tmp_path, broker_url=broker_url)) as running:
        yield running


class Worker:
    """Moves one job along, as a worker does."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.job = queued_job(database)
        self._fence = 0

    def claim(self) -> None:
        with self._database.write() as work:
            found = claim_job(work, self.job, "w", 600)
        assert found is not None
        self._fence = found.fence

    def beat(self, phase: str, step: int = 1) -> None:
        progress, metrics = {"fraction": 0.5, "step": step, "steps": 9}, {"loss": 0.25}
        with self._database.write() as work:
            work.jobs.heartbeat(self.job, self._fence, 600, phase=phase, progress=progress, metrics=metrics)

    def fail(self) -> None:
        with self._database.write() as work:
            assert work.jobs.fail(self.job, self._fence, FAILURE)

    def ids(self) -> list[str]:
        with self._database.read() as work:
            return [str(row.id) for row in work.jobs.events(self.job, 0, 1000)]


def lasting(events: Iterator[JobEvent]) -> Iterator[JobEvent]:
    """Those that come once and in order."""
    return (event for event in events if event.event != "progress")


def connected(url: str, **options: Any) -> Client:
    client = Client(url, patience=options.pop("patience", 60.0), **options)
    client._transport.sleep = lambda seconds: time.sleep(min(seconds, 0.05))
    return client


def test_events_tell_the_jobs_life_and_end_with_it(served: Served) -> None:
    worker = Worker(served.database)
    with connected(served.url) as client:
        coming = client.events(worker.job)
        assert next(coming).status == "queued"
        worker.claim()
        running = next(lasting(coming))
        assert (running.event, running.status, running.attempt) == ("status", "running", 1)
        assert not running.ended
        assert running.at is not None and running.at.utcoffset() is not None
        worker.beat("training", step=3)
        phase = next(lasting(coming))
        assert (phase.event, phase.phase, phase.status) == ("phase", "training", None)
        progress = next(coming)
        assert (progress.event, progress.phase, progress.id) == ("progress", "training", phase.id)
        assert (progress.progress.step, progress.progress.fraction) == (3, 0.5)
        assert progress.metrics == {"loss": 0.25} and progress.raw["attempt"] == 1
        worker.fail()
        rest = list(lasting(coming))
        assert [event.status for event in rest] == ["failed"] and rest[0].ended
        assert rest[0].error is not None and rest[0].error.detail == FAILURE["detail"]
        known = worker.ids()
        assert [event.id for event in client.events(worker.job)] == known
        assert [event.id for event in client.events(worker.job, after=known[1])] == known[2:]
        assert list(client.events(worker.job, after=known[-1])) == [], "there is nothing to come"


def test_connections_that_break_lose_and_repeat_nothing(served: Served) -> None:
    worker = Worker(served.database)
    worker.claim()
    for n in range(8):
        worker.beat(f"phase{n}")
    worker.fail()
    with CuttingProxy(served.url) as proxy, connected(proxy.url) as client:
        proxy.cut_after = [150, 1, 230, 0, 317, 400]
        assert [event.id for event in client.events(worker.job)] == worker.ids()
        assert proxy.cut_after == [], "all of these connections broke"


def test_a_server_that_restarts_is_waited_for(tmp_path: Path, broker_url: str) -> None:
    settings = ApiSettings(data_dir=tmp_path, broker_url=broker_url)
    upgrade(settings.database_url)
    worker = Worker(Database(make_engine(settings.database_url)))
    port = free_port()
    with connected(f"http://127.0.0.1:{port}") as client:
        coming = lasting(client.events(worker.job))
        with server_process(settings, port=port) as server:
            assert next(coming).status == "queued"
            server.process.terminate()  # ends its streams
            assert server.process.wait(60) is not None
        worker.claim()
        worker.beat("training")
        with server_process(settings, port=port):
            assert [next(coming).status, next(coming).phase] == ["running", "training"]
            worker.fail()
            assert [event.status for event in coming] == ["failed"]


def test_what_is_not_there_is_refused_also_when_it_goes_under_way(served: Served) -> None:
    worker = Worker(served.database)
    with connected(served.url) as client:
        with pytest.raises(ApiError) as refused:
            next(client.events("job_none"))
        assert (refused.value.status, refused.value.code) == (404, "not_found")
        coming = client.events(worker.job)
        assert next(coming).status == "queued"
        with served.database.write() as work:
            work.jobs.request_cancel(worker.job)
            work.jobs.delete(worker.job)
        with pytest.raises(ApiError) as gone:
            next(coming)
        assert gone.value.status == 404


def test_without_a_key_it_is_said_what_to_do(tmp_path: Path, broker_url: str) -> None:
    with serving(ApiSettings(data_dir=tmp_path, broker_url=broker_url, auth="required")) as served:
        worker = Worker(served.database)
        with connected(served.url) as client, pytest.raises(ApiError) as refused:
            next(client.events(worker.job))
    assert refused.value.status == 401 and "ZSQ_API_KEY" in refused.value.detail


def test_the_command_line_prints_one_object_a_line(served: Served) -> None:
    worker = Worker(served.database)
    worker.claim()
    worker.fail()
    known = worker.ids()
    words = ["jobs", "events", worker.job, "--server", served.url]
    lines = [json.loads(line) for line in CliRunner().invoke(app, words).stdout.splitlines()]
    assert [line["id"] for line in lines] == known
    assert [(line["event"], line["status"]) for line in lines] == [
        *(("status", status) for status in ("queued", "running", "failed")),
    ]
    assert lines[-1]["error"] == FAILURE
    rest = CliRunner().invoke(app, [*words, "--after", known[1]]).stdout.splitlines()
    assert [json.loads(line)["id"] for line in rest] == known[2:]


def answering(*script: httpx.Response | Exception) -> Client:
    answers = list(script)

    def handler(request: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Client("http://zsq.test", transport=httpx.MockTransport(handler))


def streamed(text: str) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, text=text)


def test_the_pauses_are_those_that_the_server_asks_for() -> None:
    pauses: list[float] = []
    client = answering(
        streamed("retry: 700\n\n"),
        httpx.Response(429, headers={"retry-after": "3"}),
        httpx.ConnectError("refused"),
        streamed('id: 4\nevent: status\ndata: {"status": "succeeded", "news": 1}\n\n'),
    )
    client._transport.sleep = pauses.append
    [event] = client.events("job_1")
    assert (event.id, event.ended, event.raw["news"]) == ("4", True, 1)
    assert pauses[:2] == [0.7, 3.0] and len(pauses) == 3


def test_a_server_that_stays_away_is_given_up() -> None:
    client = answering(streamed(""), httpx.ConnectError("refused"))
    client.patience = 0.0
    client._transport.sleep = lambda seconds: None
    with pytest.raises(ConnectionLost):
        next(client.events("job_1"))


def test_another_answer_than_a_stream_is_an_error_at_once() -> None:
    """A proxy's page, say: going on would ask for it for ever."""
    client = answering(httpx.Response(200, html="<p>Sign in</p>"))
    with pytest.raises(ClientError, match="something else than events"):
        next(client.events("job_1"))


def test_streams_on_which_nothing_comes_are_given_up() -> None:
    """A proxy's, say, that answers for a server that it cannot reach."""
    client = answering(*[streamed("")] * 3)
    client.patience = 0.3
    client._transport.sleep = lambda seconds: time.sleep(0.2)
    with pytest.raises(ConnectionLost, match="nothing comes"):
        next(client.events("job_1"))


def test_a_stream_that_says_no_more_than_that_it_is_there_is_followed() -> None:
    """A job may wait for hours behind a proxy that lets no connection live for long."""
    ended = streamed('id: 4\nevent: status\ndata: {"status": "succeeded"}\n\n')
    client = answering(*[streamed(": still there\n\n")] * 4, ended)
    client.patience = 0.1
    client._transport.sleep = lambda seconds: time.sleep(0.06)
    assert [event.id for event in client.events("job_1")] == ["4"]


@pytest.mark.parametrize(
    "data", ['{"status": "run', "[]", "null", '{"at": "yesterday"}', '{"progress": {"step": [1]}}']
)
def test_an_event_that_cannot_be_read_is_the_clients_error(data: str) -> None:
    client = answering(streamed(f"event: status\ndata: {data}\n\n"))
    with pytest.raises(ClientError, match="cannot be read"):
        next(client.events("job_1"))
