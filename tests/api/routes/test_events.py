from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import event, text

from api.services.events import stream
from api.services.watching import Hub
from api.settings import ApiSettings
from store.database import Database, make_engine
from store.migrate import upgrade
from tests.api.conftest import Api
from tests.api.problems import problem
from tests.api.serving import Served, server_process, serving
from tests.api.sse import Event, parsed
from tests.store.rows import claim_job, queued_job
from tests.waiting import until

FAILURE = {"code": "diverged", "detail": "It diverged.", "retryable": False, "field": None}


@pytest.fixture
def served(tmp_path: Path, broker_url: str, database_url: str) -> Iterator[Served]:
    with serving(ApiSettings(data_dir=tmp_path, broker_url=broker_url, database_url=database_url)) as running:
        yield running


def claim(database: Database, id: str) -> int:
    with database.write() as work:
        found = claim_job(work, id, "w", 60)
    assert found is not None
    return found.fence


def beat(database: Database, id: str, fence: int, phase: str, step: int = 1) -> None:
    with database.write() as work:
        work.jobs.heartbeat(id, fence, 60, phase=phase, progress={"step": step}, metrics={"loss": 0.5})


def fail(database: Database, id: str, fence: int) -> None:
    with database.write() as work:
        assert work.jobs.fail(id, fence, FAILURE)


def ids(database: Database, job_id: str) -> list[int]:
    with database.read() as work:
        return [row.id for row in work.jobs.events(job_id, 0, 10_000)]


def events(served: Served, job_id: str, **options: Any) -> list[Event]:
    """All of the stream until it ends."""
    with httpx.stream("GET", f"{served.url}/v1/jobs/{job_id}/events", timeout=30, **options) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(parsed(response.iter_lines()))


def test_a_stream_tells_the_jobs_life_and_ends_with_it(served: Served) -> None:
    id = queued_job(served.database)
    with httpx.stream("GET", f"{served.url}/v1/jobs/{id}/events", timeout=30) as response:
        assert (
            response.headers["cache-control"] == "no-cache" and response.headers["x-accel-buffering"] == "no"
        )
        coming = parsed(response.iter_lines())
        assert next(coming).data["status"] == "queued"
        fence = claim(served.database, id)
        beat(served.database, id, fence, "training", step=3)
        seen = []
        for each in coming:
            seen.append(each)
            if each.name == "progress":
                break
        fail(served.database, id, fence)
        rest = [each for each in coming if each.name != "progress"]
    told = [(each.name, each.data.get("status"), each.data.get("phase")) for each in seen]
    assert told == [
        ("status", "running", None),
        ("phase", None, "training"),
        ("progress", None, "training"),
    ]
    assert (seen[-1].id, seen[-1].data["progress"]["step"], seen[-1].data["metrics"]) == (
        None,
        3,
        {"loss": 0.5},
    )
    assert [(each.data["status"], each.data["error"]) for each in rest] == [("failed", FAILURE)]
    assert all(each.data["at"].endswith("Z") for each in [*seen, *rest] if each.id)


def test_a_stream_goes_on_behind_any_id(served: Served) -> None:
    id = queued_job(served.database)
    fence = claim(served.database, id)
    for n in range(5):
        beat(served.database, id, fence, f"phase{n}")
    fail(served.database, id, fence)
    known = ids(served.database, id)
    for position, last in enumerate(known[:-1]):
        for options in (
            {"headers": {"Last-Event-ID": str(last)}},
            {"params": {"after": last}},
            {"params": {"after": known[-1]}, "headers": {"Last-Event-ID": str(last)}},
        ):
            got = [int(each.id or 0) for each in events(served, id, **options)]
            assert got == known[position + 1 :]
    over = httpx.get(f"{served.url}/v1/jobs/{id}/events", headers={"Last-Event-ID": str(known[-1])})
    assert over.status_code == 204


def test_nothing_is_lost_or_repeated_for_many_that_break_off(served: Served) -> None:
    jobs = [queued_job(served.database) for _ in range(3)]

    fences = [claim(served.database, id) for id in jobs]  # in their turn

    def work(id: str, fence: int) -> None:
        for n in range(30):
            beat(served.database, id, fence, f"phase{n}")
        fail(served.database, id, fence)

    def follow(n: int) -> list[int]:
        got: list[int] = []
        while True:
            headers = {"Last-Event-ID": str(got[-1])} if got else {}
            url = f"{served.url}/v1/jobs/{jobs[n % 3]}/events"
            with httpx.stream("GET", url, headers=headers, timeout=30) as response:
                if response.status_code == 204:
                    return got
                for count, each in enumerate(parsed(response.iter_lines())):
                    got += [int(each.id)] if each.id else []
                    if count > 3 + n:
                        break

    with ThreadPoolExecutor(15) as pool:
        following = [pool.submit(follow, n) for n in range(12)]
        list(pool.map(work, jobs, fences))
        for n, each in enumerate(following):
            assert each.result(60) == ids(served.database, jobs[n % 3])


def test_many_streams_cost_one_query_and_none_when_they_are_closed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [queued_job(served.database) for _ in range(4)]
    statements: list[str] = []
    polls: list[tuple[set[str], int, int]] = []  # what was asked for; statements before it and after
    asked = served.hub._looks

    @event.listens_for(served.database.engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("SELECT"):
            statements.append(statement)

    def counted(job_ids: list[str]) -> Any:
        before = len(statements)
        found = asked(job_ids)
        polls.append((set(job_ids), before, len(statements)))
        return found

    monkeypatch.setattr(served.hub, "_looks", counted)
    clients = [httpx.stream("GET", f"{served.url}/v1/jobs/{id}/events", timeout=30) for id in jobs * 3]
    coming = [parsed(client.__enter__().iter_lines()) for client in clients]
    for each in coming:
        assert next(each).data["status"] == "queued"
    assert REGISTRY.get_sample_value("zsq_event_streams") == len(clients)
    settled = len(polls) + 1  # the streams have read their first events
    until(lambda: len(polls) >= settled + 4)
    own = polls[settled : settled + 4]
    assert [asked_for for asked_for, _, _ in own] == [set(jobs)] * 4
    for (_, _, end), (_, begin, after) in pairwise(own):
        assert (begin, after) == (end, end + 1)  # nothing between two polls, and one query in each
    for client in clients:
        client.__exit__(None, None, None)
    until(lambda: not served.hub._watches)
    assert not served.hub._wanted.is_set()
    until(lambda: REGISTRY.get_sample_value("zsq_event_streams") == 0)


def test_what_is_not_there_or_anothers_is_404(served: Served) -> None:
    foreign = queued_job(served.database, owner="somebody else")
    for id in ("job_none", foreign):
        for accept in ("text/event-stream", "application/json"):
            response = httpx.get(f"{served.url}/v1/jobs/{id}/events", headers={"Accept": accept})
            problem(response, 404, "not_found")
    own = queued_job(served.database)
    for wrong in ("-1", "x", str(2**63)):
        url = f"{served.url}/v1/jobs/{own}/events"
        problem(httpx.get(url, headers={"Last-Event-ID": wrong}), 422, "validation_error", "last-event-id")
        problem(httpx.get(url, params={"after": wrong}), 422, "validation_error", "after")


def test_programs_may_have_pages(api_on: Api) -> None:
    id = queued_job(api_on.database)
    fence = claim(api_on.database, id)
    for n in range(4):
        beat(api_on.database, id, fence, f"phase{n}")
    got: list[Any] = []
    after: str | None = "0"
    while after is not None:
        page = api_on.http.get(
            f"/v1/jobs/{id}/events",
            params={"limit": 2, "after": after},
            headers={"Accept": "application/json"},
        ).json()
        got += page["items"]
        after = page["next"]
    assert [each["id"] for each in got] == ids(api_on.database, id)
    assert [each["data"].get("status") or each["data"]["phase"] for each in got] == [
        "queued",
        "running",
        *(f"phase{n}" for n in range(4)),
    ]


async def taken(chunks: AsyncIterator[bytes], wanted: Callable[[str], bool]) -> list[str]:
    """The stream's text until a chunk is the one that is waited for."""
    got: list[str] = []
    async with asyncio.timeout(30):
        async for chunk in chunks:
            got.append(chunk.decode())
            if wanted(got[-1]):
                break
    return got


def test_comments_pass_the_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'zsq.db'}"
    upgrade(url)
    database = Database(make_engine(url))
    id = queued_job(database)

    async def run() -> list[str]:
        hub = Hub(database)
        async with hub.running():
            chunks = stream(hub, database, id, 0, heartbeat=0.05)
            return await taken(chunks, lambda chunk: chunk.startswith(": "))

    got = asyncio.run(run())
    assert got[0].startswith("retry: ") and "event: status" in got[1] and len(got) == 3


def test_a_stream_ends_with_the_key_that_it_was_opened_with(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'zsq.db'}"
    upgrade(url)
    database = Database(make_engine(url))
    id = queued_job(database)
    with database.write() as work:
        key, _ = work.keys.create("local", None, None)

    async def run() -> int:
        hub, comments = Hub(database), 0
        async with hub.running():
            async for chunk in stream(hub, database, id, 0, key_id=key.id, heartbeat=0.05, key_seconds=0.02):
                comments += chunk.startswith(b": ")
                if comments == 1:  # it has been looked at, and was good
                    with database.write() as work:
                        work.keys.revoke(key.id)
            return comments

    assert asyncio.run(asyncio.wait_for(run(), 30)) >= 1


def test_a_stream_outlives_the_database(served: Served) -> None:
    id = queued_job(served.database)

    def rename(before: str, after: str) -> None:
        with served.database.writing_engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE {before} RENAME TO {after}"))

    with httpx.stream("GET", f"{served.url}/v1/jobs/{id}/events", timeout=30) as response:
        coming = parsed(response.iter_lines())
        assert next(coming).data["status"] == "queued"
        rename("job", "job_away")
        try:
            assert next(coming).name == "comment"
        finally:
            rename("job_away", "job")
        fail(served.database, id, claim(served.database, id))
        assert [each.data["status"] for each in coming] == ["running", "failed"]


def test_a_deleted_job_ends_its_streams(served: Served) -> None:
    id = queued_job(served.database)
    with httpx.stream("GET", f"{served.url}/v1/jobs/{id}/events", timeout=30) as response:
        coming = parsed(response.iter_lines())
        next(coming)
        with served.database.writing_engine.begin() as connection:
            connection.execute(text("DELETE FROM job"))
        assert list(coming) == []


def test_an_id_that_never_was_ends_with_the_job_too(served: Served) -> None:
    id = queued_job(served.database)
    with httpx.stream("GET", f"{served.url}/v1/jobs/{id}/events?after=999999999", timeout=30) as response:
        fail(served.database, id, claim(served.database, id))
        assert list(parsed(response.iter_lines())) == []


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (["-m", "api"], signal.SIGTERM),
        (["-m", "uvicorn", "--factory", "api.app:create_app"], signal.SIGINT),
    ],
    ids=["api", "uvicorn"],
)
def test_a_server_that_is_told_to_stop_ends_its_streams(
    tmp_path: Path, broker_url: str, command: list[str], number: signal.Signals
) -> None:
    settings = ApiSettings(data_dir=tmp_path, broker_url=broker_url)
    upgrade(settings.database_url)
    id = queued_job(Database.from_settings(settings))
    with server_process(settings, command) as server:
        with httpx.stream("GET", f"{server.url}/v1/jobs/{id}/events", timeout=30) as response:
            coming = parsed(response.iter_lines())
            next(coming)
            server.process.send_signal(number)
            assert next(coming, None) is None  # it ends, and without an error; a comment would come otherwise
        server.process.wait(20)
