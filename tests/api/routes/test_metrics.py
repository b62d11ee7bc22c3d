from __future__ import annotations

from datetime import timedelta
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from starlette.testclient import TestClient

from api import metrics
from api.app import create_app
from store.queue import ANY_QUEUE
from store.tables import utc_now
from tests.api.conftest import Api

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(http: Any) -> Samples:
    response = http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def test_requests_are_counted_and_timed_by_template(api: Api) -> None:
    labels = {"method": "GET", "route": "/v1/jobs/{id}", "status": "4xx"}
    before = scrape(api.http)
    for id in ("job_1", "job_2"):
        api.http.get(f"/v1/jobs/{id}")
    after = scrape(api.http)
    for name in ("zsq_http_requests_total", "zsq_http_request_seconds_count"):
        assert (value(after, name, **labels) or 0) - (value(before, name, **labels) or 0) == 2
    assert value(after, "zsq_http_requests_in_flight") == 1, "the scrape itself"


def test_nothing_that_a_caller_sends_becomes_a_label(api: Api) -> None:
    scrape(api.http)
    before = set(scrape(api.http))
    for each in range(5):
        api.http.get(f"/stranger{each}", headers={"X-Request-ID": f"stranger{each}"})
        api.http.request(f"STRANGER{each}", "/v1/jobs")
        api.http.get(f"/v1/jobs/stranger{each}", params={"owner": f"stranger{each}"})
    new = set(scrape(api.http)) - before
    assert "stranger" not in str(new).lower()
    routes = {dict(labels).get("route") for _, labels in new} - {None}
    assert routes <= {"unmatched", "/v1/jobs", "/v1/jobs/{id}"}


def test_uploaded_bytes_are_counted_also_of_what_was_refused(api: Api) -> None:
    before = value(scrape(api.http), "zsq_upload_bytes_total") or 0
    body = bytes(100_000)
    response = api.http.post(
        "/v1/checkpoints?architecture=cifar/resnet20",
        content=body,
        headers={"content-type": "application/octet-stream"},
    )
    assert response.status_code == 201
    too_much = bytes(api.settings.max_upload_bytes + 1)
    api.http.post("/v1/checkpoints", files={"file": too_much}, data={"architecture": "cifar/resnet20"})
    assert (value(scrape(api.http), "zsq_upload_bytes_total") or 0) - before >= len(body) + len(too_much) // 2


def test_jobs_and_queue_are_told_as_they_are(api_on: Api) -> None:
    checkpoint = api_on.upload()
    api_on.make_ready(checkpoint["id"])
    api_on.succeed(api_on.submit(checkpoint["id"], seed=9)["id"])
    waiting = [api_on.submit(checkpoint["id"], seed=seed)["id"] for seed in range(3)]
    long_ago = utc_now() - timedelta(seconds=500)
    with api_on.database.engine.begin() as connection:
        connection.execute(
            text("UPDATE job SET updated_at = :at WHERE id = :id"), {"at": long_ago, "id": waiting[0]}
        )
    with api_on.database.write() as work:  # a message that is sent again makes no job younger
        work.jobs.mark_sent(waiting)
    samples = scrape(api_on.http)
    assert value(samples, "zsq_jobs", status="queued") == 3
    assert value(samples, "zsq_jobs", status="succeeded") == 1
    assert value(samples, "zsq_jobs", status="running") == 0
    assert 500 <= (value(samples, "zsq_oldest_queued_job_seconds") or 0) < 600
    assert value(samples, "zsq_queue_messages", queue=ANY_QUEUE) == api_on.queued()[ANY_QUEUE]


def test_a_scrape_does_not_fail_while_database_and_broker_are_away(api: Api) -> None:
    away = {"database_url": "postgresql://u:p@127.0.0.1:1/db", "broker_url": "redis://127.0.0.1:1/0"}
    with TestClient(create_app(api.settings.model_copy(update=away))) as http:
        samples = scrape(http)
    names = {name for name, _ in samples}
    assert "zsq_http_requests_in_flight" in names
    assert names.isdisjoint({"zsq_jobs", "zsq_oldest_queued_job_seconds", "zsq_queue_messages"})


def test_hooks_of_limits_and_streams(api: Api) -> None:
    before = scrape(api.http)
    metrics.limited("requests")
    metrics.stream_opened()
    after = scrape(api.http)
    assert value(after, "zsq_rate_limited_total", limit="requests") == 1 + (
        value(before, "zsq_rate_limited_total", limit="requests") or 0
    )
    assert value(after, "zsq_event_streams") == 1
    metrics.stream_closed()
    assert value(scrape(api.http), "zsq_event_streams") == 0
