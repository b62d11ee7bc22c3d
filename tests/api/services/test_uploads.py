"""Bytes and the rows that name them, on every database and every store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from api.deps import Caller
from api.services import resumable
from tests.api.conftest import Api, Keyed
from tests.api.problems import problem
from tests.api.routes.test_resumable import begun, crashed_between, send
from tests.store.blob_stores import after_commits, before_commit, deleted_once, everything, others_write

CONTENT = bytes(range(256)) * 400


@pytest.fixture
def stored(serve: Callable[..., Keyed], database_url: str, blobs_url: str) -> Api:
    return serve(auth="off", database_url=database_url, blobs_url=blobs_url)


def plain(api: Api) -> None:
    api.upload(CONTENT)


def one_shot(api: Api) -> None:
    files = {"file": CONTENT, "dataset": CONTENT[:1000]}
    form = {"architecture": "cifar/resnet20", "bits": "w4a4"}
    answer = api.http.post("/v1/quantize", files=files, data=form)
    assert answer.status_code == 202, answer.text


def in_parts(api: Api) -> None:
    begin(api, CONTENT[:1000], CONTENT[1000:])


def in_one_part(api: Api) -> None:
    begin(api, CONTENT)


def begin(api: Api, *parts: bytes) -> str:
    url, offset = begun(api, len(CONTENT)), 0
    for part in parts:
        answer = send(api, url, offset, part)
        assert answer.status_code == 204, answer.text
        offset += len(part)
    return url


# With how many times bytes are put in place.
WAYS: dict[Callable[[Api], None], int] = {plain: 1, one_shot: 2, in_parts: 3, in_one_part: 1}


def whole(api: Api) -> bool:
    """Rows name all bytes that there are, and those are right."""
    blobs = api.resources.blobs
    there = everything(blobs)
    with api.database.read() as work:
        named = work.blobs.in_use(there)
    for sha256 in there:
        with blobs.open(sha256) as file:
            assert hashlib.sha256(file.read()).hexdigest() == sha256
    return bool(there) and named == set(there)


@pytest.mark.parametrize("way", WAYS)
def test_nobody_waits_while_a_slow_store_takes_the_bytes(
    stored: Api, monkeypatch: pytest.MonkeyPatch, way: Callable[[Api], None]
) -> None:
    committed = others_write(monkeypatch, stored.resources.blobs, stored.database)
    way(stored)
    assert len(committed) == WAYS[way]
    assert whole(stored) and stored.http.get("/v1/checkpoints").json()["items"][0]["bytes"] == len(CONTENT)


@pytest.mark.parametrize("way", WAYS)
def test_bytes_that_somebody_deletes_before_their_row_comes_are_put_again(
    stored: Api, monkeypatch: pytest.MonkeyPatch, way: Callable[[Api], None]
) -> None:
    deleted = deleted_once(monkeypatch, stored.resources.blobs, stored.database)
    way(stored)
    assert len(deleted) == WAYS[way]
    assert whole(stored)


def test_a_part_for_a_place_that_is_taken_leaves_nothing(
    stored: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = begin(stored)
    overtaken = False

    def overtake(sha256: str) -> None:
        nonlocal overtaken
        if not overtaken:
            overtaken = True
            assert send(stored, url, 0, CONTENT[:1000]).status_code == 204

    committed = after_commits(monkeypatch, stored.resources.blobs, overtake)
    problem(send(stored, url, 0, CONTENT[1000:2000]), 409, "offset_mismatch")
    assert len(committed) == 2 and whole(stored)
    assert everything(stored.resources.blobs) == [hashlib.sha256(CONTENT[:1000]).hexdigest()]


def test_what_is_refused_leaves_nothing(serve: Callable[..., Keyed], blobs_url: str) -> None:
    api = serve(auth="off", blobs_url=blobs_url, owner_queued_jobs=1)
    one_shot(api)
    before = everything(api.resources.blobs)
    form = {"architecture": "cifar/resnet20", "bits": "w4a4"}
    problem(api.http.post("/v1/quantize", files={"file": b"x"}, data=form), 429, "too_many_jobs")
    assert everything(api.resources.blobs) == before and whole(api)


def with_key(api: Api) -> Any:
    form = {"architecture": "cifar/resnet20", "bits": "w4a4"}
    files, key = {"file": CONTENT, "dataset": CONTENT[:1000]}, {"Idempotency-Key": "k"}
    return api.http.post("/v1/quantize", files=files, data=form, headers=key)


def delete_all(api: Api) -> None:
    for job in api.http.get("/v1/jobs").json()["items"]:
        api.http.post(job["links"]["self"] + "/cancel")
        assert api.http.delete(job["links"]["self"]).status_code == 204
    for path in ("/v1/checkpoints", "/v1/datasets"):
        for upload in api.http.get(path).json()["items"]:
            assert api.http.delete(f"{path}/{upload['id']}").status_code == 204


def test_a_replay_brings_back_nothing_that_was_deleted(stored: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    first = with_key(stored)
    delete_all(stored)
    committed = after_commits(monkeypatch, stored.resources.blobs, lambda sha256: None)
    again = with_key(stored)
    assert again.headers["idempotent-replayed"] == "true" and again.content == first.content
    assert everything(stored.resources.blobs) == [] and committed == []


def test_a_request_whose_twin_was_first_brings_back_nothing_that_was_deleted(
    stored: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twin() -> None:
        assert with_key(stored).status_code == 202
        delete_all(stored)

    before_commit(monkeypatch, stored.resources.blobs, twin)
    assert with_key(stored).headers["idempotent-replayed"] == "true"
    assert everything(stored.resources.blobs) == []


def test_an_end_that_another_made_first_brings_back_nothing_that_was_deleted(
    stored: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    id, caller = crashed_between(stored, monkeypatch, "put").rpartition("/")[2], Caller("local")

    def twin() -> None:
        resumable.finish(stored.resources, caller, id)
        delete_all(stored)

    before_commit(monkeypatch, stored.resources.blobs, twin)
    assert resumable.finish(stored.resources, caller, id).resource_id
    assert everything(stored.resources.blobs) == []
