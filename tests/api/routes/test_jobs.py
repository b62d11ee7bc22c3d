from __future__ import annotations

import json
from typing import Any

import pytest

from store.errors import Unavailable
from store.job_repository import JobRepository
from store.queue import ANY_QUEUE, CONTROL_QUEUE, GPU_QUEUE
from store.tables import Job
from tests.api.conftest import Api
from tests.api.problems import problem
from tests.store.rows import claim_job


def ready_checkpoint(api: Api) -> str:
    id: str = api.upload()["id"]
    api.make_ready(id)
    return id


def test_a_job_is_accepted_enqueued_and_found(api: Api) -> None:
    id = ready_checkpoint(api)
    body = {
        "checkpoint_id": id,
        "bits": {"weight": 4, "activation": 8, "first_last": 8, "overrides": {"layer3.*": {"weight": 3}}},
        "method": {"name": "zaq", "budget": {"seconds": 5}, "alpha": 0.2},
        "seed": 7,
        "limits": {"seconds": 60},
        "labels": {"team": "vision"},
    }
    response = api.http.post("/v1/jobs", json=body)
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    assert float(response.headers["retry-after"]) > 0
    assert (job["status"], job["attempt"], job["error"], job["phase"]) == ("queued", 0, None, None)
    assert job["bits"]["overrides"] == {"layer3.*": {"weight": 3, "activation": None}}
    assert (job["method"]["name"], job["method"]["alpha"]) == ("zaq", 0.2)
    assert (job["seed"], job["limits"], job["labels"]) == (7, {"seconds": 60.0}, {"team": "vision"})
    assert job["progress"] == {"fraction": 0.0, "step": 0, "steps": 0, "eta_seconds": None}
    got = api.http.get(f"/v1/jobs/{job['id']}")
    assert job.pop("duplicate_of") is None
    assert got.json() == job and got.headers["retry-after"]
    assert api.queued()[ANY_QUEUE] == 1


def test_a_job_that_asks_for_a_gpu_is_told_to_gpu_workers_alone(api: Api) -> None:
    id = ready_checkpoint(api)
    before = api.queued()
    assert api.submit(id, device="gpu")["device"] == "gpu"
    assert api.queued() == {**before, GPU_QUEUE: 1}
    assert api.submit(id)["device"] == "any"
    refused = api.http.post("/v1/jobs", json={"checkpoint_id": id, "bits": "w4a4", "device": "tpu"})
    problem(refused, 422, "validation_error", "device")


def test_a_job_sent_as_a_form_is_told_to_be_json(api: Api) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}  # what curl -d says
    response = api.http.post("/v1/jobs", content=b'{"bits": "w4a4"}', headers=kind)
    assert "application/json" in problem(response, 415, "unsupported_media_type")["detail"]


def test_a_job_on_a_pending_checkpoint_is_accepted_and_waits(api: Api) -> None:
    api.submit(api.upload()["id"])
    assert api.queued() == {CONTROL_QUEUE: 1}


def test_a_broker_that_is_away_loses_no_job(api: Api) -> None:
    from starlette.testclient import TestClient

    from api.app import create_app

    id = ready_checkpoint(api)
    away = api.settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    with TestClient(create_app(away)) as http:
        response = http.post("/v1/jobs", json={"checkpoint_id": id, "bits": "w4a4"})
    assert response.status_code == 202
    assert api.http.get(f"/v1/jobs/{response.json()['id']}").json()["status"] == "queued"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"bits": "w0a4"}, "bits.weight"),
        ({"bits": "w4a9"}, "bits.activation"),
        ({"bits": "w1a4"}, "bits.weight"),
        ({"bits": "four"}, "bits"),
        ({"bits": {"weight": True, "activation": 4}}, "bits.weight"),
        ({"bits": {"weight": 4.5, "activation": 4}}, "bits.weight"),
        ({"bits": {"weight": 4}}, "bits.activation"),
        (
            {"bits": {"weight": 4, "activation": 4, "overrides": {"a": {"weight": 9}}}},
            "bits.overrides.a.weight",
        ),
        ({"bits": None}, "bits"),
        ({"method": "sorcery"}, "method"),
        ({"method": {"name": "zaq", "alhpa": 1}}, "method.alhpa"),
        ({"method": {"name": "zaq", "budget": {}}}, "method.budget"),
        ({"method": {"name": "minmax", "images": 10**30}}, "method.images"),
        ({"method": {}}, "method"),
        ({"seed": -1}, "seed"),
        ({"seed": 10**40}, "seed"),
        ({"limits": {"seconds": 0}}, "limits.seconds"),
        ({"labels": {"a": 1}}, "labels.a"),
        ({"labels": {str(n): "" for n in range(100)}}, "labels"),
        ({"evaluation": {}}, "evaluation.dataset_id"),
        ({"export": {"profile": "odd"}}, "export.profile"),
        ({"export": "odd"}, "export.profile"),
        ({"export": {"profile": "tensorrt"}}, "export"),
        (
            {
                "export": "tensorrt",
                "bits": {"weight": 4, "activation": 8, "overrides": {"a": {"activation": 4}}},
            },
            "export",
        ),
        ({"checkpoint_id": 5}, "checkpoint_id"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_wrong_specifications_are_located(api: Api, change: dict[str, Any], field: str) -> None:
    body = {"checkpoint_id": ready_checkpoint(api), "bits": "w4a4", **change}
    problem(api.http.post("/v1/jobs", json=body), 422, "validation_error", field)
    assert api.http.get("/v1/jobs").json()["items"] == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'"text"',
        b"null",
        b'{"checkpoint_id": "a", "bits": NaN}',
        b'{"checkpoint_id": "a", "bits": "w4a4", "limits": {"seconds": NaN}}',
        b'{"checkpoint_id": "a", "bits": "w4a4", "limits": {"seconds": 1e999}}',
        b'{"checkpoint_id": "a", "bits": "w4a4", "method": {"name": "zaq", "alpha": Infinity}}',
        b'{"checkpoint_id": "a", "bits": "w4a4", "seed": ' + b"9" * 6000 + b"}",
        b'{"checkpoint_id": "a\\u0000", "bits": "w4a4"}',
        b'{"checkpoint_id": "a", "bits": "\\ud800"}',
        b'{"checkpoint_id": "a", "bits": "w4a4", "method": "\\udfff"}',
        b'{"checkpoint_id": "a", "bits": "w4a4", "labels": {"\\ud800": "x"}}',
        b'{"checkpoint_id": "a", "bits": "w4a4", "labels": {"x": "a\\u0000"}}',
        b'{"checkpoint_id": "a", "bits": "w4a4", "\\ud800": 1}',
        b'{"checkpoint_id": "a", "bits": {"weight": 4, "activation": 4, "overrides": {"\\u0000": {}}}}',
        b'{"checkpoint_id": "a", "bits": ' + b'{"overrides":' * 3000 + b"1" + b"}" * 3000 + b"}",
        b'{"checkpoint_id": "' + b"a" * 2_000_000 + b'"}',
    ],
    ids=range(20),
)
def test_hostile_bodies_are_problems_never_500(api_on: Api, body: bytes) -> None:
    response = api_on.http.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 413, 422), response.text
    problem(response, response.status_code, response.json()["code"])


def test_what_a_job_names_must_be_there(api: Api) -> None:
    problem(api.http.post("/v1/jobs", json={"checkpoint_id": "ckpt_no", "bits": "w4a4"}), 404, "not_found")
    body = {"checkpoint_id": ready_checkpoint(api), "bits": "w4a4", "evaluation": {"dataset_id": "data_no"}}
    problem(api.http.post("/v1/jobs", json=body), 404, "not_found")


def test_a_deleted_checkpoint_is_not_there(api: Api) -> None:
    id = ready_checkpoint(api)
    api.http.delete(f"/v1/checkpoints/{id}")
    problem(api.http.post("/v1/jobs", json={"checkpoint_id": id, "bits": "w4a4"}), 404, "not_found")


def test_a_job_on_a_rejected_checkpoint_is_refused_with_the_reason(api: Api) -> None:
    id = api.upload()["id"]
    with api.database.write() as work:
        work.checkpoints.mark_rejected(id, {"code": "missing_keys", "detail": "fc.weight is missing"})
    response = api.http.post("/v1/jobs", json={"checkpoint_id": id, "bits": "w4a4"})
    body = problem(response, 422, "checkpoint_rejected", "checkpoint_id")
    assert "fc.weight is missing" in body["detail"]


def test_one_shot_makes_checkpoint_dataset_and_job(api: Api) -> None:
    response = api.http.post(
        "/v1/quantize",
        files={"file": b"weights", "dataset": b"npz"},
        data={
            "architecture": "cifar/resnet20",
            "bits": json.dumps({"weight": 6, "activation": 8}),
            "method": json.dumps({"name": "zaq", "budget": {"iterations": 3}}),
            "seed": "3",
            "labels": '{"a": "b"}',
            "mean": "0.5,0.5,0.5",
        },
    )
    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["bits"]["weight"], job["method"]["budget"]["iterations"]) == (6, 3)
    assert (job["seed"], job["labels"]) == (3, {"a": "b"})
    checkpoint = api.http.get(job["links"]["checkpoint"]).json()
    dataset = api.http.get(job["links"]["dataset"]).json()
    assert (checkpoint["mean"], checkpoint["bytes"], dataset["bytes"]) == ([0.5, 0.5, 0.5], 7, 3)
    assert api.queued() == {CONTROL_QUEUE: 2}


def test_one_shot_takes_the_shorthands(api: Api) -> None:
    data = {"architecture": "cifar/resnet20", "bits": "w4a4", "method": "minmax", "export": "portable"}
    data["device"] = "cpu"
    response = api.http.post("/v1/quantize", files={"file": b"weights"}, data=data)
    assert response.status_code == 202
    assert response.json()["export"] == {"profile": "portable"} and response.json()["device"] == "cpu"
    assert response.json()["method"]["name"] == "minmax" and response.json()["evaluation"] is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"bits": "w9a4"}, "bits.weight"),
        ({"bits": "{"}, "bits"),
        ({"bits": '{"weight": NaN, "activation": 4}'}, "bits.weight"),
        ({"bits": '{"a":' * 2000 + "1" + "}" * 2000}, "bits"),
        ({"method": '{"name": "\\ud800"}'}, "method"),
        ({"method": "sorcery"}, "method"),
        ({"export": "tflite"}, "export.profile"),
        ({"export": '{"profile": "tensorrt"}'}, "export"),
        ({"seed": "one"}, "seed"),
        ({"architecture": "cifar/none"}, "architecture"),
        ({"checkpoint_id": "x"}, "checkpoint_id"),
    ],
)
def test_one_shot_refuses_what_is_wrong_and_keeps_nothing(
    api: Api, change: dict[str, str], field: str
) -> None:
    data = {"architecture": "cifar/resnet20", "bits": "w4a4", "method": "zaq", **change}
    response = api.http.post("/v1/quantize", files={"file": b"weights", "dataset": b"npz"}, data=data)
    problem(response, 422, response.json()["code"], field)
    assert api.stored_files() == [] and api.http.get("/v1/checkpoints").json()["items"] == []


def test_one_shot_needs_a_form(api: Api) -> None:
    headers = {"content-type": "application/octet-stream"}
    response = api.http.post("/v1/quantize", content=b"weights", headers=headers)
    problem(response, 415, "unsupported_media_type")


def test_lists_filter(api: Api) -> None:
    id = ready_checkpoint(api)
    zaq, minmax = api.submit(id), api.submit(id, method="minmax")
    api.http.post(f"/v1/jobs/{zaq['id']}/cancel")

    def ids(**filters: str) -> list[str]:
        return [item["id"] for item in api.http.get("/v1/jobs", params=filters).json()["items"]]

    assert ids() == sorted([zaq["id"], minmax["id"]], reverse=True)
    assert ids(status="canceled") == [zaq["id"]]
    assert ids(method="minmax", checkpoint_id=id) == [minmax["id"]]
    assert ids(checkpoint_id="ckpt_other") == []
    problem(api.http.get("/v1/jobs?status=odd"), 422, "validation_error", "status")
    problem(api.http.get("/v1/jobs?checkpoint_id=%00"), 422, "validation_error", "checkpoint_id")


def test_progress_of_a_running_job_is_shown(api: Api) -> None:
    job = api.submit(ready_checkpoint(api))
    progress = {"fraction": 0.5, "step": 5, "steps": 10, "eta_seconds": 3.5}
    with api.database.write() as work:
        claim = claim_job(work, job["id"], "w", 60)
        assert claim is not None
        metrics = {"loss": float("nan"), "bn": 0.25}
        work.jobs.heartbeat(job["id"], claim.fence, 60, phase="training", progress=progress, metrics=metrics)
    shown = api.http.get(f"/v1/jobs/{job['id']}").json()
    assert (shown["status"], shown["phase"], shown["attempt"]) == ("running", "training", 1)
    assert shown["progress"] == progress and shown["metrics"] == {"loss": None, "bn": 0.25}


def test_cancel_is_idempotent_and_refused_after_the_end(api: Api) -> None:
    job = api.submit(ready_checkpoint(api))
    for _ in range(2):
        response = api.http.post(f"/v1/jobs/{job['id']}/cancel")
        assert response.status_code == 202 and response.json()["status"] == "canceled"
    running = api.submit(job["checkpoint_id"])
    with api.database.write() as work:
        claim_job(work, running["id"], "w", 60)
    for _ in range(2):
        response = api.http.post(f"/v1/jobs/{running['id']}/cancel")
        assert response.status_code == 202 and response.json()["cancel_requested"]
    ended = api.submit(job["checkpoint_id"])
    api.succeed(ended["id"])
    problem(api.http.post(f"/v1/jobs/{ended['id']}/cancel"), 409, "already_ended")
    problem(api.http.post("/v1/jobs/job_none/cancel"), 404, "not_found")


@pytest.mark.parametrize(("eta_seconds", "pause"), [(None, "1"), (10.0, "1"), (65.0, "3"), (1e5, "5")])
def test_a_job_that_takes_long_is_asked_after_less_often(
    api: Api, eta_seconds: float | None, pause: str
) -> None:
    job = api.submit(ready_checkpoint(api))
    with api.database.write() as work:
        claim = claim_job(work, job["id"])
        assert claim is not None
        progress = {"fraction": 0.1, "step": 1, "steps": 10, "eta_seconds": eta_seconds}
        work.jobs.heartbeat(job["id"], claim.fence, 60, progress=progress)
    assert api.http.get(f"/v1/jobs/{job['id']}").headers["retry-after"] == pause


def test_the_report_comes_with_success(api: Api) -> None:
    job = api.submit(ready_checkpoint(api))
    problem(api.http.get(f"/v1/jobs/{job['id']}/report"), 409, "not_ready")
    api.succeed(job["id"])
    assert api.http.get(f"/v1/jobs/{job['id']}/report").json() == {"version": 1, "bits": "w4a4"}
    done = api.http.get(f"/v1/jobs/{job['id']}")
    assert done.json()["status"] == "succeeded" and "retry-after" not in done.headers
    assert set(done.json()["links"]) == {"self", "checkpoint", "report", "artifacts"}


def test_a_deleted_job_is_gone_with_all_that_is_its(api_on: Api) -> None:
    id, sha256 = api_on.succeeded_job()
    assert api_on.resources.blobs.exists(sha256)
    assert api_on.http.delete(f"/v1/jobs/{id}").status_code == 204
    for path in ("", "/report", "/artifacts", "/artifacts/model.onnx"):
        problem(api_on.http.get(f"/v1/jobs/{id}{path}"), 404, "not_found")
    assert api_on.http.get("/v1/jobs").json()["items"] == []
    assert not api_on.resources.blobs.exists(sha256)
    with api_on.database.read() as work:
        assert not work.jobs.events(id) and not work.artifacts.of_job(id)
    problem(api_on.http.delete(f"/v1/jobs/{id}"), 404, "not_found")


def test_a_file_that_two_jobs_have_goes_with_the_second(api_on: Api) -> None:
    (first, sha256), (second, same) = api_on.succeeded_job(), api_on.succeeded_job()
    assert sha256 == same
    api_on.http.delete(f"/v1/jobs/{first}")
    assert api_on.http.get(f"/v1/jobs/{second}/artifacts/model.onnx").status_code == 200
    api_on.http.delete(f"/v1/jobs/{second}")
    assert not api_on.resources.blobs.exists(sha256)


def test_an_unfinished_job_is_not_deleted(api_on: Api) -> None:
    checkpoint = api_on.upload()
    api_on.make_ready(checkpoint["id"])
    id = api_on.submit(checkpoint["id"])["id"]
    problem(api_on.http.delete(f"/v1/jobs/{id}"), 409, "job_unfinished")
    with api_on.database.write() as work:
        claim = claim_job(work, id, "test", 60)
        assert claim is not None
    problem(api_on.http.delete(f"/v1/jobs/{id}"), 409, "job_unfinished")
    with api_on.database.write() as work:
        work.jobs.cancel_running(id, claim.fence)
    assert api_on.http.delete(f"/v1/jobs/{id}").status_code == 204
    # What the worker still writes changes nothing.
    with api_on.database.write() as work:
        assert not work.jobs.succeed(id, claim.fence, {}, [])


def test_a_blob_store_that_is_away_does_not_keep_a_job(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: object, sha256: str) -> None:
        raise Unavailable("away")

    id, sha256 = api.succeeded_job()
    monkeypatch.setattr(type(api.resources.blobs), "delete", away)
    assert api.http.delete(f"/v1/jobs/{id}").status_code == 204
    problem(api.http.get(f"/v1/jobs/{id}"), 404, "not_found")
    assert api.resources.blobs.exists(sha256), "the collector's to find"


@pytest.mark.parametrize("path", ["report", "artifacts", "artifacts/model.onnx"])
def test_a_job_that_is_deleted_while_it_is_looked_at_is_there_whole_or_not_at_all(
    api_on: Api, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    id, _ = api_on.succeeded_job()
    url = f"/v1/jobs/{id}/{path}"
    whole = api_on.http.get(url).content
    of_owner = JobRepository.of_owner

    def found_and_deleted(self: JobRepository, job_id: str, owner: str) -> Job | None:
        found = of_owner(self, job_id, owner)
        with api_on.database.write() as work:
            work.jobs.delete(job_id)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(JobRepository, "of_owner", found_and_deleted)
        response = api_on.http.get(url)
    if response.is_success:  # SQLite reads as of one moment
        assert response.content == whole
    else:
        problem(response, 404, "not_found")
