"""`Idempotency-Key`: one job however often a request is sent, and the same answer for each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import update

from store.queue import ANY_QUEUE
from store.tables import IdempotencyKey, utc_now
from tests.api.conftest import Api
from tests.api.problems import problem
from tests.store.rows import claim_job

FORM = {"architecture": "cifar/resnet20", "bits": "w4a4"}


def submit(api: Api, checkpoint_id: str, key: str, /, **change: Any) -> Any:
    body = {"checkpoint_id": checkpoint_id, "bits": "w4a4", **change}
    return api.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})


def quantize(api: Api, key: str, file: bytes = b"weights", **change: Any) -> Any:
    files = {"file": file, "dataset": b"npz"}
    return api.http.post(
        "/v1/quantize", files=files, data={**FORM, **change}, headers={"Idempotency-Key": key}
    )


def ready(api: Api, content: bytes = b"weights") -> str:
    id: str = api.upload(content)["id"]
    api.make_ready(id)
    return id


def jobs(api: Api) -> list[Any]:
    return list(api.http.get("/v1/jobs").json()["items"])


def test_the_same_request_is_answered_as_before(api: Api) -> None:
    id = ready(api)
    first = submit(api, id, "k1")
    with api.database.write() as work:  # the answer is the one of that moment, whatever came later
        claim_job(work, first.json()["id"], "w", 60)
    again = submit(api, id, "k1")
    assert (again.status_code, again.content) == (first.status_code, first.content) == (202, first.content)
    for header in ("location", "retry-after", "content-type"):
        assert again.headers[header] == first.headers[header]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(jobs(api)) == 1 and api.queued()[ANY_QUEUE] == 1


def test_another_spelling_is_the_same_request(api: Api) -> None:
    id = ready(api)
    first = submit(api, id, "k", method="zaq", seed=0)
    spelled = submit(api, id, "k", bits={"activation": 4, "weight": 4}, method={"name": "zaq"}, labels={})
    assert spelled.content == first.content


@pytest.mark.parametrize(
    "change",
    [{"bits": "w4a8"}, {"seed": 1}, {"labels": {"a": "b"}}, {"reuse": True}, {"checkpoint_id": "ckpt_other"}],
)
def test_another_request_with_the_key_is_refused(api: Api, change: dict[str, Any]) -> None:
    id = ready(api)
    submit(api, id, "k")
    problem(submit(api, id, "k", **change), 422, "idempotency_key_reused")
    assert len(jobs(api)) == 1


def test_the_order_of_overrides_makes_another_request(api: Api) -> None:
    id = ready(api)
    pair = [("layer1.*", {"weight": 3}), ("*", {"weight": 5})]
    bits = {"weight": 4, "activation": 4}
    assert submit(api, id, "k", bits={**bits, "overrides": dict(pair)}).status_code == 202
    swapped = submit(api, id, "k", bits={**bits, "overrides": dict(pair[::-1])})
    problem(swapped, 422, "idempotency_key_reused")


def test_one_shot_counts_the_files_too(api: Api) -> None:
    first = quantize(api, "k")
    again = quantize(api, "k")
    assert again.content == first.content and again.headers["idempotent-replayed"] == "true"
    problem(quantize(api, "k", b"other weights"), 422, "idempotency_key_reused")
    problem(quantize(api, "k", bits="w8a8"), 422, "idempotency_key_reused")
    problem(submit(api, first.json()["checkpoint_id"], "k"), 422, "idempotency_key_reused")
    assert len(jobs(api)) == 1
    assert len(api.stored_files()) == 2  # nothing of the refused


def test_a_refusal_leaves_the_key_free(api: Api) -> None:
    problem(submit(api, "ckpt_none", "k"), 404, "not_found")
    problem(submit(api, "ckpt_none", "k", bits="w9a9"), 422, "validation_error")
    assert submit(api, ready(api), "k").status_code == 202


@pytest.mark.parametrize("key", ["", "k" * 256, "a\tb", "k\xe9".encode("latin-1")])
def test_keys_are_short_and_printable(api: Api, key: Any) -> None:
    problem(submit(api, ready(api), key), 400, "malformed_request")


def test_a_key_holds_for_a_day(api_on: Api) -> None:
    id = ready(api_on)
    first = submit(api_on, id, "k" * 255)

    def age(by: timedelta) -> None:
        with api_on.database.writing_engine.begin() as connection:
            connection.execute(update(IdempotencyKey).values(created_at=utc_now() - by))

    age(timedelta(hours=24) - timedelta(minutes=1))
    assert submit(api_on, id, "k" * 255).content == first.content
    age(timedelta(hours=24) + timedelta(minutes=1))
    renewed = submit(api_on, id, "k" * 255, bits="w4a8")
    assert renewed.status_code == 202 and renewed.json()["id"] != first.json()["id"]
    assert submit(api_on, id, "k" * 255, bits="w4a8").content == renewed.content


def test_of_many_at_once_one_makes_the_job(api_on: Api) -> None:
    id, start = ready(api_on), Barrier(20)

    def send(_: int) -> Any:
        start.wait()
        return submit(api_on, id, "the same")

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(send, range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert len(jobs(api_on)) == 1


def test_of_many_one_shots_at_once_one_makes_the_job(api_on: Api) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: quantize(api_on, "the same"), range(16)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert len(jobs(api_on)) == 1


def test_owners_have_keys_of_their_own(api: Api) -> None:
    with api.database.write() as work:
        assert work.idempotency.hold("somebody else", "k", utc_now()) is None
        row = IdempotencyKey(owner="somebody else", key="k", fingerprint="x", status=202, response={"id": 1})
        work.idempotency.add(row)
    assert "idempotent-replayed" not in submit(api, ready(api), "k").headers


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/quantize"])
def test_two_keys_on_one_request_are_refused(api: Api, path: str) -> None:
    id = ready(api)
    sent: Any = {"json": {"checkpoint_id": id, "bits": "w4a4"}}
    if path == "/v1/quantize":
        sent = {"files": {"file": b"weights"}, "data": FORM}
    headers = [("Idempotency-Key", "k1"), ("Idempotency-Key", "k2")]
    problem(api.http.post(path, headers=headers, **sent), 400, "malformed_request")
    assert jobs(api) == []
