"""What an owner may take, also by many calls at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from store.blobs.local import LocalBlobWriter
from tests.api.conftest import Api, Keyed
from tests.api.problems import problem

FORM = {"architecture": "cifar/resnet20"}
RAW = "/v1/checkpoints?architecture=cifar/resnet20"
STREAM = {"content-type": "application/octet-stream"}


def test_bytes_beyond_the_quota_are_refused_with_what_is_used_and_allowed(
    serve: Callable[..., Keyed],
) -> None:
    keyed = serve(owner_stored_bytes=1000)
    with keyed.calling_as("bob"):
        keyed.upload(b"b" * 900)
    with keyed.calling_as("ann"):
        first = keyed.upload(b"a" * 600)
        response = keyed.http.post("/v1/checkpoints", files={"file": b"c" * 401}, data=FORM)
        body = problem(response, 413, "quota_exceeded")
        assert (body["used"], body["allowed"]) == (600, 1000)
        problem(keyed.http.post("/v1/datasets", files={"file": b"c" * 401}), 413, "quota_exceeded")
        one_shot = keyed.http.post(
            "/v1/quantize", files={"file": b"c" * 200, "dataset": b"d" * 201}, data={**FORM, "bits": "w4a4"}
        )
        problem(one_shot, 413, "quota_exceeded")
        assert len(keyed.stored_files()) == 2, "nothing is kept of what was refused"
        assert keyed.upload(b"a" * 600)["id"] == first["id"], "what is there already takes nothing more"
        keyed.upload(b"c" * 400)
        assert keyed.http.get("/v1/limits").json()["stored_bytes"] == {"used": 1000, "allowed": 1000}
        assert keyed.http.delete(f"/v1/checkpoints/{first['id']}").status_code == 204
        keyed.upload(b"e" * 600)


def test_what_is_announced_as_too_much_is_refused_before_it_is_stored(
    serve: Callable[..., Keyed], monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = serve(owner_stored_bytes=1_000_000)
    opened: list[str] = []
    monkeypatch.setattr(type(keyed.resources.blobs), "writer", lambda self: opened.append("a writer"))
    with keyed.calling_as("ann"):
        response = keyed.http.post(RAW, content=b"x" * 2_000_000, headers=STREAM)
    problem(response, 413, "quota_exceeded")
    assert opened == []


@pytest.mark.parametrize("form", [True, False])
def test_what_announces_nothing_is_refused_as_it_streams(
    serve: Callable[..., Keyed], monkeypatch: pytest.MonkeyPatch, form: bool
) -> None:
    keyed = serve(owner_stored_bytes=3_000_000)
    written: list[int] = []
    write = LocalBlobWriter.write

    def counted(self: LocalBlobWriter, data: bytes | memoryview) -> None:
        written.append(len(data))
        write(self, data)

    monkeypatch.setattr(LocalBlobWriter, "write", counted)

    def body() -> Iterator[bytes]:
        for name in ("file", "dataset"):
            if form:
                yield f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'.encode()
            for _ in range(20):
                yield b"x" * 100_000
            yield b"\r\n" if form else b""
        yield b"--b--\r\n"

    url, kind = ("/v1/quantize", "multipart/form-data; boundary=b") if form else (RAW, STREAM["content-type"])
    with keyed.calling_as("ann"):
        response = keyed.http.post(url, content=body(), headers={"content-type": kind})
    problem(response, 413, "quota_exceeded")
    assert sum(written) < 3_100_000, "two files of 2 MB each are more, taken together"
    assert keyed.stored_files() == []


def test_uploads_at_the_same_time_cannot_pass_the_quota(
    serve: Callable[..., Keyed], database_url: str
) -> None:
    keyed = serve(database_url=database_url, owner_stored_bytes=5000, owner_uploads=0)
    with keyed.calling_as("ann"), ThreadPoolExecutor(8) as pool:
        files = [bytes([i]) * 1000 for i in range(16)]
        answers = list(pool.map(lambda f: keyed.http.post(RAW, content=f, headers=STREAM), files))
        statuses = [answer.status_code for answer in answers]
        assert (statuses.count(201), statuses.count(413)) == (5, 11)
        assert keyed.http.get("/v1/limits").json()["stored_bytes"]["used"] == 5000


def test_twenty_submits_at_the_same_time_cannot_pass_the_limit_of_queued_jobs(
    serve: Callable[..., Keyed], database_url: str
) -> None:
    keyed = serve(database_url=database_url, owner_queued_jobs=7)
    with keyed.calling_as("ann"), ThreadPoolExecutor(20) as pool:
        checkpoint = keyed.upload()["id"]
        body = {"checkpoint_id": checkpoint, "bits": "w4a4"}
        answers = list(pool.map(lambda _: keyed.http.post("/v1/jobs", json=body), range(20)))
        statuses = [answer.status_code for answer in answers]
        assert (statuses.count(202), statuses.count(429)) == (7, 13)
        refused = next(answer for answer in answers if answer.status_code == 429)
        problem(refused, 429, "too_many_jobs")
        assert int(refused.headers["retry-after"]) > 0
        assert len(keyed.http.get("/v1/jobs").json()["items"]) == 7
        waiting = keyed.http.get("/v1/jobs").json()["items"][0]["id"]
        assert keyed.http.post(f"/v1/jobs/{waiting}/cancel").is_success
        keyed.submit(checkpoint)
    with keyed.calling_as("bob"):
        keyed.submit(keyed.upload(b"his")["id"])


def test_a_one_shot_that_finds_the_queue_full_keeps_nothing(serve: Callable[..., Keyed]) -> None:
    keyed = serve(owner_queued_jobs=1)
    with keyed.calling_as("ann"):
        keyed.submit(keyed.upload()["id"])
        form = {**FORM, "bits": "w4a4"}
        problem(keyed.http.post("/v1/quantize", files={"file": b"x"}, data=form), 429, "too_many_jobs")
        assert len(keyed.http.get("/v1/checkpoints").json()["items"]) == len(keyed.stored_files()) == 1


def test_uploads_under_way_have_a_limit_for_each_owner(serve: Callable[..., Keyed]) -> None:
    keyed = serve(owner_uploads=1)
    seen: list[int] = []

    def body() -> Iterator[bytes]:
        yield b"first half, "
        # Read when the server has begun with the upload: this one is then under way.
        seen.append(keyed.resources.access.uploads.used("ann"))
        yield b"second half"

    with keyed.calling_as("ann"):
        assert keyed.http.post(RAW, content=body(), headers=STREAM).status_code == 201
        with keyed.resources.access.uploads.one("ann"):
            response = keyed.http.post("/v1/datasets", files={"file": b"x"})
            problem(response, 429, "too_many_uploads")
            assert response.headers["retry-after"]
            assert keyed.http.get("/v1/limits").json()["uploads"] == {"used": 1, "allowed": 1}
        assert keyed.http.post("/v1/datasets", files={"file": b"x"}).status_code == 201
    assert keyed.resources.access.uploads.used("ann") == 0


def test_limits_say_what_there_is(api: Api) -> None:
    found = api.http.get("/v1/limits").json()
    assert found == {
        "owner": "local",
        "key_id": None,
        "stored_bytes": {"used": 0, "allowed": None},
        "queued_jobs": {"used": 0, "allowed": 1000},
        "uploads": {"used": 0, "allowed": 16},
        "begun_uploads": {"used": 0, "allowed": 100},
        "calls_per_minute": None,
        "upload_bytes": api.settings.max_upload_bytes,
    }


def test_limits_count_calls(serve: Callable[..., Keyed]) -> None:
    api = serve(auth="off", rate_per_minute=10)
    for _ in range(3):
        api.http.get("/v1/jobs")
    assert api.http.get("/v1/limits").json()["calls_per_minute"] == {"used": 4, "allowed": 10}
