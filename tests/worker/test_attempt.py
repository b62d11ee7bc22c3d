"""What an attempt, and what the API shows of it, takes of a child that strangers have taken over."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from api.app import create_app
from api.settings import ApiSettings
from tests.api.conftest import TestClient
from tests.worker.doubles import PREFIX
from tests.worker.test_jobs import run
from tests.worker.test_metrics import Counted, outcomes
from tests.worker.world import World
from worker import messages
from worker.inspections import inspect

DOUBLE = "say_what_the_file_says"
TEXT = "a null \0, half a character \ud800."
SHOWN = "a null \N{REPLACEMENT CHARACTER}, half a character \N{REPLACEMENT CHARACTER}."
FILE = {"name": "model.onnx", "path": "/nowhere", "media_type": "application/json"}


def as_file(*said: Any) -> bytes:
    return b"\n".join(json.dumps(message).encode() for message in said)


def attempt(world: World, *said: Any) -> str:
    job_id = world.job(world.checkpoint(as_file(*said)))
    run(world, DOUBLE)
    return job_id


def ask(world: World, *paths: str) -> list[Any]:
    """What the API answers to each."""
    settings = ApiSettings(
        data_dir=world.services.store.data_dir,
        database_url=world.services.store.database_url,
        broker_url="redis://127.0.0.1:1/0",
        auth="off",
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as http:
        answers = [http.get(path) for path in paths]
    assert [answer.status_code for answer in answers] == [200] * len(paths), [a.text for a in answers]
    return [answer.json() if "json" in answer.headers["content-type"] else answer.text for answer in answers]


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"report": ["no", "object"], "artifacts": []},
        {"report": None, "artifacts": []},
        {"report": {}},
        {"report": {}, "artifacts": {}},
        {"report": {}, "artifacts": ["model.onnx"]},
        {"report": {}, "artifacts": [{**FILE, "name": 5}]},
        {"report": {}, "artifacts": [{**FILE, "media_type": ["application/json"]}]},
        {"report": {}, "artifacts": [FILE] * (messages.MAX_ARTIFACTS + 1)},
    ],
)
def test_a_result_that_is_none_fails_the_job(
    world: World, caplog: pytest.LogCaptureFixture, result: dict[str, Any]
) -> None:
    counted = Counted()
    with caplog.at_level(logging.INFO):
        job_id = attempt(world, {"result": result})
    job = world.look(job_id)
    assert (job.status, job.attempt, job.report) == ("failed", 1, None)
    assert job.error is not None and job.error["code"] == "internal_error"
    assert outcomes(counted) == {"failed": 1}
    assert "taken away" not in caplog.text and "broke" not in caplog.text


@pytest.mark.parametrize(
    "timings",
    [5, [1], "x", {"training": 10**400}, {"training": -1, "loading": 1e9, "total": True, "a" * 64: 0.0}],
)
def test_no_timing_that_a_report_tells_of_breaks_or_falsifies_the_measures(
    world: World, caplog: pytest.LogCaptureFixture, timings: object
) -> None:
    counted = Counted()
    with caplog.at_level(logging.INFO):
        job_id = attempt(world, {"result": {"report": {"timings": timings}, "artifacts": []}})
    assert world.look(job_id).status == "succeeded" and outcomes(counted) == {"succeeded": 1}
    assert "taken away" not in caplog.text and "broke" not in caplog.text
    assert counted("zsq_job_phase_seconds_count", method="minmax", phase="training") == 0
    assert counted("zsq_job_phase_seconds_count", method="minmax", phase="a" * 64) == 0
    assert counted("zsq_job_phase_seconds_sum", method="minmax", phase="loading") < 1e6


def test_a_report_is_shown_whatever_stands_in_it(world: World) -> None:
    report = {TEXT: [TEXT, 1e308, 10**400, float("nan"), float("inf"), {"deep": [[[[[None]]]]]}]}
    job_id = attempt(world, {"result": {"report": report, "artifacts": []}})
    assert world.look(job_id).status == "succeeded"
    job, found = ask(world, f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/report")
    assert job["status"] == "succeeded"
    assert found == {SHOWN: [SHOWN, 1e308, 10**400, None, None, {"deep": [[[[[None]]]]]}]}


def test_what_is_nested_deeper_than_can_be_shown_is_no_result(world: World) -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    job_id = attempt(world, {"result": {"report": {"deep": deep}, "artifacts": []}})
    assert (world.look(job_id).status, world.look(job_id).report) == ("queued", None)
    ask(world, f"/v1/jobs/{job_id}", "/v1/jobs")


@pytest.mark.parametrize(
    "progress",
    [
        {"step": 0.5},
        {"fraction": None, "steps": None},
        {"eta_seconds": 1e300, "step": 2**63},
        {"fraction": 0.25, TEXT: 1, "step": 3, "steps": 4, "eta_seconds": 5e-324},
    ],
)
def test_what_a_child_told_before_it_failed_is_shown(world: World, progress: dict[str, Any]) -> None:
    news = {"phase": "training", "progress": progress, "metrics": {TEXT: 1e308, "loss": -1e-300, "b": TEXT}}
    error = {"code": TEXT, "detail": TEXT, "field": TEXT, "retryable": "yes"}
    job_id = attempt(world, {"progress": news}, {"log": {"message": TEXT}}, {"error": error})
    job, listed, events = ask(world, f"/v1/jobs/{job_id}", "/v1/jobs", f"/v1/jobs/{job_id}/events")
    assert job["status"] == "failed" and listed["items"] == [job]
    assert job["error"] == {"code": "internal_error", "detail": SHOWN, "field": SHOWN, "retryable": False}
    assert SHOWN in events or json.dumps(SHOWN)[1:-1] in str(events)


def test_artifacts_of_such_names_fail_the_job(world: World) -> None:
    job_id = attempt(world, {"result": {"report": {}, "artifacts": [{**FILE, "name": TEXT, "path": TEXT}]}})
    (job,) = ask(world, f"/v1/jobs/{job_id}")
    assert (job["status"], job["error"]["code"]) == ("failed", "run_failed")
    assert SHOWN in job["error"]["detail"]


def test_what_an_inspection_found_is_shown(world: World) -> None:
    found = {"layer_names": [TEXT], TEXT: float("nan"), "parameters": 10**400}
    id = world.checkpoint(as_file({"result": found}), state="pending")
    inspect(world.services, "checkpoint", id, entry=PREFIX + DOUBLE)
    one, listed = ask(world, f"/v1/checkpoints/{id}", "/v1/checkpoints")
    assert one["inspection"] == {"layer_names": [SHOWN], SHOWN: None, "parameters": 10**400}
    assert one["state"] == "ready" and listed["items"] == [one]
