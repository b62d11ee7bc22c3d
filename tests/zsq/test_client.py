"""The SDK against a scripted server: what it sends, what it makes of the answers, what it waits out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from zsq.client import Client
from zsq.errors import ApiError, ClientError, ConnectionLost, JobNotSucceeded

Handler = Callable[[httpx.Request], httpx.Response]


def client_of(handler: Handler, **options: Any) -> Client:
    client = Client("http://zsq.test", transport=httpx.MockTransport(handler), **options)
    client._transport.sleep = lambda seconds: None
    return client


def job(status: str = "running", **fields: Any) -> dict[str, Any]:
    return {"id": "job_1", "status": status, "progress": {"fraction": 0.5}, **fields}


def test_submit_sends_only_what_was_asked_for() -> None:
    sent: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, request.url.path, json.loads(request.content)))
        return httpx.Response(202, json=job("queued"))

    with client_of(handler) as client:
        client.submit("ckpt_1", bits="w4a8")
        client.submit(
            "ckpt_1",
            bits={"weight": 4, "activation": 4},
            method={"name": "zaq", "budget": {"iterations": 3}},
            profile="portable",
            dataset_id="data_1",
            seed=7,
            limit_seconds=60,
            device="gpu",
            labels={"team": "vision"},
        )
    plain = {"checkpoint_id": "ckpt_1", "bits": "w4a8", "method": "zaq", "seed": 0}
    full = {
        "checkpoint_id": "ckpt_1",
        "bits": {"weight": 4, "activation": 4},
        "method": {"name": "zaq", "budget": {"iterations": 3}},
        "export": {"profile": "portable"},
        "seed": 7,
        "evaluation": {"dataset_id": "data_1"},
        "limits": {"seconds": 60},
        "device": "gpu",
        "labels": {"team": "vision"},
    }
    assert sent == [("POST", "/v1/jobs", plain), ("POST", "/v1/jobs", full)]


def test_upload_sends_the_file_and_the_given_fields(tmp_path: Path) -> None:
    file = tmp_path / "network.pt"
    file.write_bytes(b"weights" * 100_000)
    bodies: list[bytes] = []
    seen: list[tuple[int, int | None]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        return httpx.Response(201, json={"id": "ckpt_1", "state": "pending", "architecture": "cifar/resnet8"})

    with client_of(handler) as client:
        found = client.upload_checkpoint(
            file,
            "cifar/resnet8",
            input_shape=(1, 16, 16),
            mean=[0.5],
            classes=["tench, Tinca tinca", "Käfer"],
            on_bytes=lambda done, total: seen.append((done, total)),
        )
    assert found.id == "ckpt_1" and found.architecture == "cifar/resnet8"
    body = bodies[0]
    assert file.read_bytes() in body
    for name, value in (("architecture", "cifar/resnet8"), ("input_shape", "1,16,16"), ("mean", "0.5")):
        assert f'name="{name}"\r\n\r\n{value}\r\n'.encode() in body
    names = '["tench, Tinca tinca", "Käfer"]'
    assert f'name="classes"\r\n\r\n{names}\r\n'.encode() in body
    assert b'name="std"' not in body
    assert seen[-1] == (700_000, 700_000) and len(seen) > 2


def test_a_problem_becomes_an_api_error_with_its_locations() -> None:
    problem = {
        "title": "Unprocessable",
        "status": 422,
        "code": "validation_error",
        "detail": "1 field is wrong.",
        "errors": [{"loc": ["bits"], "msg": "too small"}],
    }
    with client_of(lambda request: httpx.Response(422, json=problem)) as client:
        with pytest.raises(ApiError) as raised:
            client.submit("ckpt_1", bits="w0a0")
    assert (raised.value.status, raised.value.code) == (422, "validation_error")
    assert raised.value.detail == "1 field is wrong." and raised.value.errors == problem["errors"]


@pytest.mark.parametrize("body", [b"<html>no JSON</html>", b"[1, 2]", b""])
def test_an_answer_that_is_no_problem_is_still_an_api_error(body: bytes) -> None:
    with client_of(lambda request: httpx.Response(400, content=body)) as client:
        with pytest.raises(ApiError) as raised:
            client.job("job_1")
    assert raised.value.code == "http_400" and raised.value.detail == "Bad Request"


def test_lists_follow_the_cursor_and_keep_the_filters() -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url.query, "ascii"))
        if "after=" not in asked[-1]:
            return httpx.Response(200, json={"items": [job() | {"id": "job_2"}], "next": "c1"})
        return httpx.Response(200, json={"items": [job()], "next": None})

    with client_of(handler) as client:
        assert [found.id for found in client.jobs(status="running", method=None)] == ["job_2", "job_1"]
    assert asked == ["status=running", "status=running&after=c1"]


def test_wait_outlives_lost_connections_and_a_restarting_server() -> None:
    script: list[Any] = [
        httpx.Response(200, json=job("queued"), headers={"retry-after": "1"}),
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.Response(503, json={"code": "service_unavailable"}),
        httpx.Response(200, json=job("running")),
        httpx.Response(200, json=job("succeeded")),
    ]

    def handler(request: httpx.Request) -> httpx.Response:
        step = script.pop(0)
        if isinstance(step, Exception):
            raise step
        assert isinstance(step, httpx.Response)
        return step

    looks: list[str] = []
    with client_of(handler) as client:
        ended = client.wait("job_1", on_change=lambda found: looks.append(found.status))
    assert ended.status == "succeeded" and looks == ["queued", "running", "succeeded"]


def test_whatever_only_reads_outlives_a_restarting_server() -> None:
    answers: dict[str, Any] = {
        "/v1/jobs/job_1": job("succeeded"),
        "/v1/jobs/job_1/report": {"accuracy": {}},
        "/v1/jobs/job_1/artifacts": {"items": [{"name": "model.onnx"}]},
        "/v1/jobs": {"items": [job()], "next": None},
        "/v1/webhooks/secret": {"secret": "whsec_1"},
    }
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if asked.count(request.url.path) == 1:
            return httpx.Response(503, json={"code": "service_unavailable"}, headers={"retry-after": "2"})
        return httpx.Response(200, json=answers[request.url.path])

    with client_of(handler) as client:
        assert client.result("job_1") == {"accuracy": {}}
        assert [artifact.name for artifact in client.artifacts("job_1")] == ["model.onnx"]
        assert [found.id for found in client.jobs()] == ["job_1"]
        assert client.webhook_secret() == "whsec_1"
    assert sorted(asked) == sorted([*answers, *answers])


def test_wait_pauses_as_the_server_asks_and_backs_off_otherwise() -> None:
    answers = [httpx.Response(200, json=job(), headers={"retry-after": "1.5"})]
    answers += [httpx.Response(200, json=job()) for _ in range(12)]
    answers.append(httpx.Response(200, json=job("failed")))
    pauses: list[float] = []
    client = client_of(lambda request: answers.pop(0))
    client._transport.sleep = pauses.append
    client.wait("job_1")
    assert pauses[0] == 1.5
    assert pauses[1:] == sorted(pauses[1:]) and pauses[-1] == 5.0


def test_wait_gives_up_when_no_one_answers_for_too_long() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with client_of(handler, patience=0.0) as client, pytest.raises(ConnectionLost, match="zsq up"):
        client.wait("job_1")


def test_wait_keeps_to_its_timeout() -> None:
    with client_of(lambda request: httpx.Response(200, json=job())) as client:
        with pytest.raises(TimeoutError):
            client.wait("job_1", timeout=0.0)


def test_a_submission_that_was_lost_is_sent_again_under_its_key() -> None:
    keys: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) < 3:
            raise httpx.ReadError("reset")
        return httpx.Response(202, json=job("queued"))

    with client_of(handler) as client:
        assert client.submit("ckpt_1", bits="w4a4").id == "job_1"
        assert len(keys) == 3 and len(set(keys)) == 1
        client.submit("ckpt_1", bits="w4a4")
        client.submit("ckpt_1", bits="w4a4", idempotency_key="mine")
    assert keys[3] != keys[0] and keys[4] == "mine"


class BreaksOff(httpx.SyncByteStream):
    """A body that is lost behind its headers."""

    def __iter__(self) -> Iterator[bytes]:
        yield b'{"id": '
        raise httpx.ReadError("reset")


def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    keys: list[str | None] = []

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers.get("idempotency-key"))
        if len(keys) % 3:
            return httpx.Response(200, stream=BreaksOff())
        return httpx.Response(200, json=job("succeeded"))

    with client_of(handler) as client:
        assert client.submit("ckpt_1", bits="w4a4").id == "job_1"
        assert len(keys) == 3 and len(set(keys)) == 1 and keys[0] is not None
        assert client.wait("job_1").ended and client.job("job_1").ended
        assert len(keys) == 9


def test_an_answer_that_breaks_off_again_and_again_is_a_lost_connection(tmp_path: Path) -> None:
    (tmp_path / "network.pt").write_bytes(b"weights")
    calls: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path)
        return httpx.Response(403 if request.method == "DELETE" else 201, stream=BreaksOff())

    with client_of(handler, patience=0.0) as client:
        with pytest.raises(ConnectionLost, match="reset"):
            client.job("job_1")
        with pytest.raises(ConnectionLost, match="reset"):
            client.upload_checkpoint(tmp_path / "network.pt", "cifar/resnet8")
        with pytest.raises(ApiError) as refused:
            client.delete_job("job_1")
    assert refused.value.status == 403 and len(calls) == 3


def test_an_upload_in_one_go_is_never_repeated(tmp_path: Path) -> None:
    (tmp_path / "network.pt").write_bytes(b"weights")
    calls: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path)
        raise httpx.ReadError("reset")

    with client_of(handler) as client, pytest.raises(ConnectionLost):
        client.upload_checkpoint(tmp_path / "network.pt", "cifar/resnet8")
    assert calls == ["/v1/checkpoints"]


def test_an_earlier_job_is_named_and_may_be_taken() -> None:
    sent: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(202, json=job("queued", duplicate_of="job_0"))

    with client_of(handler) as client:
        assert client.submit("ckpt_1", bits="w4a4").duplicate_of == "job_0"
        client.submit("ckpt_1", bits="w4a4", reuse=True)
    assert [body.get("reuse") for body in sent] == [None, True]


def test_result_of_a_failed_job_names_its_error() -> None:
    failed = job("failed", error={"code": "diverged", "detail": "The losses became NaN.", "retryable": False})
    with client_of(lambda request: httpx.Response(200, json=failed)) as client:
        with pytest.raises(JobNotSucceeded, match=r"became NaN\. \(diverged\)") as raised:
            client.result("job_1")
    assert raised.value.job.error is not None and raised.value.job.error.code == "diverged"


def test_what_an_older_or_newer_server_says_is_no_error() -> None:
    bare = {"id": "job_1", "status": "queued"}
    newer = job(surprise=[1], spec={"method": {"name": "zaq"}}, created_at="2026-01-02T03:04:05Z")
    answers = [httpx.Response(200, json=bare), httpx.Response(200, json=newer)]
    with client_of(lambda request: answers.pop(0)) as client:
        first, second = client.job("job_1"), client.job("job_1")
    assert first.progress.fraction == 0.0 and first.error is None and first.method is None
    assert second.method == "zaq" and second.raw["surprise"] == [1]
    assert second.created_at is not None and second.created_at.utcoffset() is not None


def test_the_server_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSQ_SERVER_URL", "http://elsewhere.test:9000/")
    assert Client().base_url == "http://elsewhere.test:9000"
    monkeypatch.delenv("ZSQ_SERVER_URL")
    assert Client().base_url == "http://127.0.0.1:8000"


def test_a_server_that_is_no_address_is_said_plainly() -> None:
    with pytest.raises(ClientError, match="no server's address"):
        Client("http://[::1")


def test_an_artifacts_name_cannot_lead_elsewhere(tmp_path: Path) -> None:
    asked: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path)
        return httpx.Response(404, json={"code": "not_found", "detail": "none"})

    with client_of(handler) as client, pytest.raises(ApiError):
        client.download("job_1", "../../job_2", tmp_path / "x")
    assert asked == [b"/v1/jobs/job_1/artifacts/..%2F..%2Fjob_2"]


def test_the_key_goes_with_every_call_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=job())

    for key, expected in ((None, "Bearer from-env"), (" given\n", "Bearer given")):
        monkeypatch.setenv("ZSQ_API_KEY", "from-env")
        with client_of(handler, api_key=key) as client:
            client.job("job_1")
            client.cancel("job_1")
        assert [request.headers["authorization"] for request in seen] == [expected, expected]
        assert not any("given" in str(request.url) or "from-env" in str(request.url) for request in seen)
        seen.clear()
    monkeypatch.delenv("ZSQ_API_KEY")
    with client_of(handler) as client:
        client.job("job_1")
    assert "authorization" not in seen[0].headers


@pytest.mark.parametrize("key", ["two words", "Schlüssel", "a\nb"])
def test_a_key_that_cannot_be_one_is_said_before_it_is_sent(key: str) -> None:
    with pytest.raises(ClientError, match="no key has") as raised:
        Client("http://zsq.test", api_key=key)
    assert key not in raised.value.detail


def test_a_refusal_says_what_to_do() -> None:
    problem = {"code": "unauthorized", "detail": "This needs a key."}
    for key, word in ((None, "No API key was sent"), ("k" * 9, "not good there")):
        with client_of(lambda request: httpx.Response(401, json=problem), api_key=key) as client:
            with pytest.raises(ApiError, match=word) as raised:
                client.job("job_1")
        assert (raised.value.status, raised.value.code) == (401, "unauthorized")
        for hint in ("ZSQ_API_KEY", "--api-key", "zsq keys create"):
            assert hint in raised.value.detail
        assert "kkk" not in raised.value.detail
