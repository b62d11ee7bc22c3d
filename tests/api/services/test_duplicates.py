"""What was computed before is offered, never forced on anybody."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text, update

from store.queue import ANY_QUEUE
from store.tables import Job
from tests.api.conftest import Api, Keyed
from tests.api.problems import problem
from tests.store.rows import claim_job
from tests.waiting import until


def ready(api: Api, content: bytes = b"weights", **fields: Any) -> str:
    id: str = api.upload(content, **fields)["id"]
    with api.database.write() as work:
        work.checkpoints.mark_ready(id, {"parameters": 3})
    return id


def submit(api: Api, checkpoint_id: str, **change: Any) -> Any:
    return api.http.post("/v1/jobs", json={"checkpoint_id": checkpoint_id, "bits": "w4a4", **change})


def test_a_job_that_computes_the_same_is_named(api_on: Api) -> None:
    id = ready(api_on)
    first, second = submit(api_on, id), submit(api_on, id, labels={"a": "b"})
    assert first.json()["duplicate_of"] is None and "duplicate_of" not in first.json()["links"]
    assert second.status_code == 202 and second.json()["id"] != first.json()["id"]
    assert second.json()["duplicate_of"] == first.json()["id"]
    assert second.json()["links"]["duplicate_of"] == first.json()["links"]["self"]


def test_the_newest_that_succeeded_comes_first(api_on: Api) -> None:
    id = ready(api_on)
    old, newer, _ = (submit(api_on, id).json()["id"] for _ in range(3))
    for job in (old, newer):
        api_on.succeed(job)
    assert submit(api_on, id).json()["duplicate_of"] == newer


@pytest.mark.parametrize(
    "change", [{"bits": "w4a8"}, {"seed": 1}, {"export": "portable"}, {"method": "fast"}]
)
def test_another_specification_is_no_duplicate(api: Api, change: dict[str, Any]) -> None:
    id = ready(api)
    submit(api, id)
    assert submit(api, id, **change).json()["duplicate_of"] is None


def test_the_same_bytes_under_another_name_compute_the_same(api: Api) -> None:
    first = submit(api, ready(api)).json()
    assert submit(api, ready(api, name="other")).json()["duplicate_of"] == first["id"]
    assert submit(api, ready(api, mean="0.1,0.2,0.3")).json()["duplicate_of"] is None
    assert submit(api, ready(api, b"other weights")).json()["duplicate_of"] is None


def test_what_measures_it_is_part_of_it(api: Api) -> None:
    id = ready(api)
    sets = [api.http.post("/v1/datasets", files={"file": content}).json()["id"] for content in (b"1", b"2")]
    seen = [
        submit(api, id, **({"evaluation": {"dataset_id": data}} if data else {})).json()["duplicate_of"]
        for data in (None, *sets)
    ]
    assert seen == [None, None, None]


def test_what_was_canceled_failed_or_is_another_owners_is_no_duplicate(api: Api) -> None:
    id = ready(api)
    canceled, failed, stopping, foreign = (submit(api, id).json()["id"] for _ in range(4))
    api.http.post(f"/v1/jobs/{canceled}/cancel")
    with api.database.write() as work:
        claim = claim_job(work, failed, "w", 60)
        assert claim is not None
        work.jobs.fail(failed, claim.fence, {"code": "diverged", "detail": ""})
        claim_job(work, stopping, "w", 60)
        work.jobs.request_cancel(stopping)
    with api.database.writing_engine.begin() as connection:
        connection.execute(update(Job).where(Job.id == foreign).values(owner="somebody else"))
    assert submit(api, id, reuse=True).status_code == 202


def test_reuse_gives_the_earlier_job(api: Api) -> None:
    id = ready(api)
    first = submit(api, id, reuse=True)
    assert first.status_code == 202
    again = submit(api, id, reuse=True)
    assert again.status_code == 200 and again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert api.queued()[ANY_QUEUE] == 1
    form = {"architecture": "cifar/resnet20", "bits": "w4a4", "reuse": "true"}
    shot = api.http.post("/v1/quantize", files={"file": b"weights"}, data=form)
    assert (shot.status_code, shot.json()["id"]) == (200, first.json()["id"])
    problem(submit(api, id, reuse="yes"), 422, "validation_error", "reuse")


def test_of_many_that_would_reuse_one_makes_the_job(api_on: Api) -> None:
    id = ready(api_on)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: submit(api_on, id, reuse=True), range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_who_sends_a_file_and_who_names_it_do_not_wait_for_each_other(
    serve: Callable[..., Keyed], postgres_url: str
) -> None:
    """POST /v1/quantize as it runs beside POST /v1/jobs: the one writes the row that the other holds, and
    both want the lock of what they compute. Where an owner's limits are off, nothing else orders them."""
    api = serve(auth="off", database_url=postgres_url, owner_queued_jobs=0, owner_begun_uploads=0)
    first = submit(api, ready(api)).json()
    form = {"architecture": "cifar/resnet20", "bits": "w4a4", "reuse": "true"}

    def waits() -> bool:
        with api.database.connect() as other:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            return bool(other.execute(text(waiting)).scalar())

    def quantize() -> Any:
        return api.http.post("/v1/quantize", files={"file": b"weights"}, data=form)

    with ThreadPoolExecutor(1) as pool:
        with api.database.write() as work:
            job = work.jobs.get(first["id"])
            assert job is not None
            work.checkpoints.hold(job.checkpoint_id, job.owner)
            answer = pool.submit(quantize)
            until(waits)
            work.lock_digest(job.owner, job.digest)
        assert (answer.result().status_code, answer.result().json()["id"]) == (200, first["id"])
