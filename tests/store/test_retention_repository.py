from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from store.database import Database
from store.tables import (
    Artifact,
    Base,
    Checkpoint,
    Dataset,
    IdempotencyKey,
    Job,
    JobEvent,
    PartialUpload,
    UploadPart,
    WebhookDelivery,
    new_id,
    utc_now,
)
from store.transitions import ENDED, UNFINISHED
from tests.store.rows import checkpoint, dataset, job

NOW = utc_now()
CUTOFF = NOW - timedelta(days=30)
LONG_AGO, LATELY = NOW - timedelta(days=40), NOW - timedelta(days=20)


def add(database: Database, *rows: Base) -> None:
    with database.write() as work:
        for row in rows:
            work.retention._session.add(row)
            work.retention._session.flush()


def count(database: Database, table: type[Base]) -> int:
    with database.read() as work:
        return work.retention._session.query(table).count()


def a_job(database: Database, status: str, finished_at: datetime | None = None, **values: Any) -> Job:
    """With an artifact, an event and a delivery of its own."""
    row = job(**{"checkpoint_id": None, "status": status, "finished_at": finished_at, **values})
    artifact = Artifact(job_id=row.id, name="model.onnx", blob_sha256="ab" * 32, bytes=1, media_type="x/y")
    event = JobEvent(job_id=row.id, kind="status", data={"status": status}, at=LONG_AGO)
    delivery = WebhookDelivery(
        id=new_id("hook"), owner="local", job_id=row.id, url="https://x.test", payload={}
    )
    add(database, row, artifact, event, delivery)
    return row


def drop(database: Database, what: str, limit: int = 100) -> int:
    with database.write() as work:
        dropped: int = getattr(work.retention, f"drop_{what}")(CUTOFF, limit)
        return dropped


@pytest.mark.parametrize("status", sorted(ENDED))
def test_jobs_that_ended_long_ago_go_with_all_that_is_theirs(database: Database, status: str) -> None:
    a_job(database, status, LONG_AGO)
    kept = a_job(database, status, LATELY)
    assert drop(database, "jobs") == 1
    with database.read() as work:
        assert work.jobs.get(kept.id) is not None
    assert [count(database, table) for table in (Job, Artifact, JobEvent, WebhookDelivery)] == [1] * 4


@pytest.mark.parametrize("status", sorted(UNFINISHED))
def test_unfinished_jobs_stay_however_old(database: Database, status: str) -> None:
    a_job(database, status, created_at=LONG_AGO)
    assert drop(database, "jobs") == 0 and drop(database, "events") == 0


def test_no_call_deletes_more_than_it_may(database: Database) -> None:
    for _ in range(5):
        a_job(database, "failed", LONG_AGO)
    assert [drop(database, "jobs", 2) for _ in range(4)] == [2, 2, 1, 0]


def test_events_go_before_their_job(database: Database) -> None:
    row = a_job(database, "succeeded", LATELY)
    add(database, JobEvent(job_id=row.id, kind="status", data={}, at=LATELY))
    assert drop(database, "events") == 1
    assert (count(database, JobEvent), count(database, Job)) == (1, 1)


@pytest.mark.parametrize("kind", ["checkpoint", "dataset"])
def test_uploads_stay_while_anybody_uses_sends_or_waits_for_them(database: Database, kind: str) -> None:
    make = {"checkpoint": checkpoint, "dataset": dataset}[kind]
    old = {"created_at": LONG_AGO, "updated_at": LONG_AGO}
    _, used_long_ago, used_lately, waited_for, sent_lately = rows = [
        make(name=name, **old)
        for name in ("unused", "used long ago", "used lately", "waited for", "sent lately")
    ]
    sent_lately.updated_at = LATELY
    add(database, *rows)
    users = (
        (used_long_ago, "failed", LONG_AGO),
        (used_lately, "succeeded", LATELY),
        (waited_for, "queued", None),
    )
    for row, status, finished_at in users:
        a_job(database, status, finished_at, created_at=LONG_AGO, **{f"{kind}_id": row.id})
    assert drop(database, f"{kind}s") == 2
    with database.read() as work:
        left = [work.retention._session.get(type(row), row.id) for row in rows]
    assert [row.name for row in left if row is not None] == ["used lately", "waited for", "sent lately"]
    other = {"checkpoint": "datasets", "dataset": "checkpoints"}[kind]
    assert drop(database, other) == 0


def test_an_upload_that_a_new_job_holds_is_left_alone(database: Database) -> None:
    row = checkpoint(created_at=LONG_AGO, updated_at=LONG_AGO)
    add(database, row)
    if database.engine.dialect.name == "sqlite":
        pytest.skip("one writer at a time: nobody can be in between")
    # Were the row waited for, the submitting transaction would have to end first.
    with ThreadPoolExecutor(1) as pool, database.write() as submitting:
        assert submitting.checkpoints.hold(row.id, "local")
        submitting.jobs.add(job(row.id))
        assert pool.submit(drop, database, "checkpoints").result(30) == 0
    assert drop(database, "checkpoints") == 0 and count(database, Checkpoint) == 1


def test_idempotency_keys_and_partial_uploads_go_when_they_are_old(database: Database) -> None:
    for age, name in ((LONG_AGO, "old"), (LATELY, "new")):
        key = IdempotencyKey(
            owner="local", key=name, fingerprint="f", status=202, response={}, created_at=age
        )
        upload = PartialUpload(
            id=name, owner="local", kind="dataset", fields={}, length=9, expires_at=age, created_at=age
        )
        add(database, key, upload, UploadPart(upload_id=name, offset=0, blob_sha256="ab" * 32, bytes=1))
    assert drop(database, "idempotency_keys") == 1 and drop(database, "partial_uploads") == 1
    assert [count(database, table) for table in (IdempotencyKey, PartialUpload, UploadPart)] == [1] * 3
    assert count(database, Dataset) == 0
