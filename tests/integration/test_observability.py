"""One job through the whole service, as its logs, measures and traces tell of it."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import FAST
from tests.integration.otlp import Receiver, Span, receiver
from tests.integration.running import QUICK, Running
from tests.waiting import until
from zsq.client import Client
from zsq.models import Job
from zsq.stack import Stack

REQUEST_ID = "from-the-outside:1"


@dataclass
class Watched:
    running: Running
    traces: Receiver
    job: Job
    scraped: dict[str, str]

    def lines(self, part: str) -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in (self.running.stack.logs / f"{part}.log").read_text().splitlines()
        ]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, network_file: Path) -> Iterator[Watched]:
    data_dir = tmp_path_factory.mktemp("watched")
    with receiver() as traces:
        env = {
            **FAST,
            "ZSQ_LOG_FORMAT": "json",
            "ZSQ_METRICS_PORT": "0",
            "OTEL_EXPORTER_OTLP_ENDPOINT": traces.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with Stack(data_dir, 0, env=env) as stack, Client(stack.url) as client:
            running = Running(stack, client, [], data_dir)
            checkpoint = running.upload(network_file)
            until(lambda: client.checkpoint(checkpoint.id).state == "ready", complaint=running.logs)
            accepted = httpx.post(
                f"{stack.url}/v1/jobs",
                json={"checkpoint_id": checkpoint.id, "bits": "w4a4", "method": QUICK},
                headers={"X-Request-ID": REQUEST_ID},
            )
            job = running.wait(client.job(accepted.json()["id"]))
            assert job.status == "succeeded", running.logs()
            found = Watched(running, traces, job, {})
            for part in ("cpu", "control"):
                (said,) = [line for line in found.lines(part) if line["message"].startswith("metrics on")]
                with urllib.request.urlopen(said["message"].split()[-1], timeout=20) as answer:
                    found.scraped[part] = answer.read().decode()
            found.scraped["api"] = httpx.get(f"{stack.url}/metrics").text
            yield found


def test_every_line_of_every_part_is_an_object_with_time_and_level(watched: Watched) -> None:
    for part in ("api", "control", "cpu"):
        lines = watched.lines(part)
        assert lines
        for line in lines:
            assert {"time", "level", "logger", "message"} <= set(line)


def test_the_callers_request_id_goes_all_the_way_into_the_worker(watched: Watched) -> None:
    (accepted,) = [
        line for line in watched.lines("api") if line.get("request_id") == REQUEST_ID and line.get("route")
    ]
    assert (accepted["route"], accepted["status"], accepted["owner"]) == ("/v1/jobs", 202, "local")
    said = [line for line in watched.lines("cpu") if line.get("job_id") == watched.job.id]
    assert any("succeeded" in line["message"] for line in said)
    attempts = [line for line in said if "attempt" in line]
    assert attempts and {(line["request_id"], line["attempt"]) for line in attempts} == {(REQUEST_ID, 1)}


def test_no_part_logs_the_brokers_password(watched: Watched) -> None:
    config = (watched.running.data_dir / "broker" / "valkey.conf").read_text()
    password = re.findall(r"requirepass (\S+)", config)[0]
    for part in ("api", "control", "cpu", "migrate"):
        assert password not in (watched.running.stack.logs / f"{part}.log").read_text()


def test_api_and_workers_can_be_scraped(watched: Watched) -> None:
    cpu = watched.scraped["cpu"]
    assert 'zsq_job_attempts_total{method="minmax"} 1.0' in cpu
    assert 'zsq_job_attempt_seconds_count{method="minmax",outcome="succeeded"} 1.0' in cpu
    for phase in ("loading", "synthesizing", "exporting", "verifying", "publishing"):
        assert f'zsq_job_phase_seconds_count{{method="minmax",phase="{phase}"}} 1.0' in cpu
    assert 'zsq_inspections_total{kind="checkpoint",outcome="ready"} 1.0' in watched.scraped["control"]
    assert 'zsq_jobs{status="succeeded"} 1.0' in watched.scraped["api"]
    everything = "".join(watched.scraped.values())
    assert watched.job.id not in everything and REQUEST_ID not in everything


def test_one_trace_from_the_request_to_the_jobs_run(watched: Watched) -> None:
    traces = watched.traces
    until(lambda: traces.named("zsq.attempt"), complaint=watched.running.logs)
    (attempt,) = traces.named("zsq.attempt")
    assert attempt.service == "zsq-worker"
    assert attempt.attributes["zsq.job_id"] == watched.job.id
    assert (attempt.attributes["zsq.method"], attempt.attributes["zsq.outcome"]) == ("minmax", "succeeded")
    by_id: dict[str, Span] = {span.id: span for span in traces.spans}
    root = attempt
    while root.parent:
        root = by_id[root.parent]
    assert (root.name, root.service) == ("POST /v1/jobs", "zsq-api")
    same = [span for span in traces.spans if span.trace == root.trace]
    statements = [span for span in same if "db.statement" in span.attributes]
    assert {"zsq-api", "zsq-worker"} == {span.service for span in same}
    assert any(span.attributes["db.statement"].startswith("INSERT INTO job") for span in statements)
    assert watched.job.id not in str([span.attributes["db.statement"] for span in statements])
    assert len([span for span in same if span.name == root.name]) == 1, "FastAPI's own tracing stands back"
    # The message: sent inside the request, taken by the worker, and linked with the attempt.
    (sent,) = [span for span in same if span.name == "apply_async/zsq.quantize"]
    (taken,) = [span for span in traces.named("run/zsq.quantize") if span.parent == sent.id]
    assert taken.service == "zsq-worker" and taken.trace in attempt.linked


def test_heartbeats_and_sweeps_write_no_traces_of_their_own(watched: Watched) -> None:
    roots = {(span.service, span.name) for span in watched.traces.spans if not span.parent}
    assert roots <= {
        ("zsq-api", "POST /v1/checkpoints"),
        ("zsq-api", "POST /v1/jobs"),
        ("zsq-api", "GET /v1/checkpoints/{id}"),
        ("zsq-api", "GET /v1/jobs/{id}"),
        # What the schedule sends by itself; on a slow machine also reminders of what waits long.
        *(
            ("zsq-worker", f"apply_async/zsq.{task}")
            for task in ("collect", "inspect_checkpoint", "quantize")
        ),
    }
