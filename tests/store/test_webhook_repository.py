from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from store.database import Database
from store.tables import Job, WebhookDelivery, utc_now
from tests.store.rows import claim_job, queued_job

URL = "https://example.com/hook"
LEASE = timedelta(seconds=60)


def failed_job(database: Database, owner: str = "local") -> str:
    job_id = queued_job(database, owner=owner, webhook_url=URL, labels={"run": "7"})
    with database.write() as work:
        claim = claim_job(work, job_id, "worker", 60)
        assert claim is not None
        assert work.jobs.fail(job_id, claim.fence, {"code": "diverged", "detail": "…"})
    return job_id


def deliveries(database: Database, job_id: str) -> list[WebhookDelivery]:
    with database.read() as work:
        return list(work.webhooks.of_job(job_id))


def test_the_end_of_a_job_leaves_one_delivery(database: Database) -> None:
    job_id = failed_job(database)
    (delivery,) = deliveries(database, job_id)
    assert (delivery.url, delivery.status, delivery.attempts) == (URL, "pending", 0)
    assert delivery.payload["type"] == "job.failed"
    data = delivery.payload["data"]
    assert data["job_id"] == job_id and data["labels"] == {"run": "7"}
    assert data["error"]["code"] == "diverged"


def test_neither_a_running_job_nor_one_without_a_webhook_leaves_any(database: Database) -> None:
    silent, running = queued_job(database), queued_job(database, webhook_url=URL)
    with database.write() as work:
        assert work.jobs.request_cancel(silent) == "canceled"
        assert claim_job(work, running, "worker", 60) is not None
    assert deliveries(database, silent) == deliveries(database, running) == []


def test_the_end_by_whatever_way_is_told(database: Database) -> None:
    canceled, lost = queued_job(database, webhook_url=URL), queued_job(database, webhook_url=URL)
    with database.write() as work:
        work.jobs.request_cancel(canceled)
        assert claim_job(work, lost, "worker", 60) is not None
    with database.write() as work:
        work.jobs.sweep(utc_now() + timedelta(hours=1), max_attempts=1)
    kinds = [deliveries(database, id)[0].payload["type"] for id in (canceled, lost)]
    assert kinds == ["job.canceled", "job.failed"]


def test_a_due_delivery_is_taken_by_one_until_its_lease_is_over(database: Database) -> None:
    failed_job(database)
    now = utc_now()
    with database.write() as work:
        (first,) = work.webhooks.take_due(now, 10, LEASE)
    with database.write() as work:
        assert not work.webhooks.take_due(now, 10, LEASE)
    with database.write() as work:
        (again,) = work.webhooks.take_due(now + 2 * LEASE, 10, LEASE)
    assert (first.id, first.attempts, again.attempts) == (again.id, 1, 2)


def test_owners_take_turns_and_each_owners_oldest_delivery_comes_first(database: Database) -> None:
    many = [failed_job(database, "many") for _ in range(6)]
    few = [failed_job(database, "few") for _ in range(2)]
    one = failed_job(database, "one")
    now = utc_now()
    rounds = []
    for _ in range(3):
        with database.write() as work:
            rounds.append([row.job_id for row in work.webhooks.take_due(now, 4, LEASE)])
    assert rounds == [[many[0], few[0], one, many[1]], [many[2], few[1], many[3], many[4]], [many[5]]]


def test_callers_at_the_same_time_take_different_deliveries(database: Database) -> None:
    ids = {failed_job(database, owner) for owner in ("a", "b") for _ in range(4)}
    now = utc_now()

    def take(_: int) -> list[str]:
        with database.write() as work:
            return [row.job_id for row in work.webhooks.take_due(now, 3, LEASE)]

    taken: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        for _ in ids:  # a caller may come away with nothing, but not all of them while any is left
            taken += [id for found in pool.map(take, range(4)) for id in found]
    assert sorted(taken) == sorted(ids)


def test_a_delivery_that_another_caller_holds_is_passed_over(database: Database) -> None:
    held, free = failed_job(database), failed_job(database)
    now = utc_now()
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    with database.write() as work:
        assert [row.job_id for row in work.webhooks.take_due(now, 1, LEASE)] == [held]
        with database.write() as other:
            assert [row.job_id for row in other.webhooks.take_due(now, 1, LEASE)] == [free]


def test_what_an_overtaken_try_says_does_not_count(database: Database) -> None:
    job_id = failed_job(database)
    with database.write() as work:
        (taken,) = work.webhooks.take_due(utc_now(), 10, LEASE)
    with database.write() as work:
        work.webhooks.take_due(utc_now() + 2 * LEASE, 10, LEASE)
    with database.write() as work:
        work.webhooks.failed(taken.id, 1, "too late", None)
    assert deliveries(database, job_id)[0].status == "pending"
    with database.write() as work:
        work.webhooks.delivered(taken.id, 2)
    assert deliveries(database, job_id)[0].status == "delivered"


def test_each_owner_has_a_secret_that_stays_until_it_is_renewed(database: Database) -> None:
    with database.write() as work:
        first, other = work.webhooks.secret("a"), work.webhooks.secret("b")
    with database.write() as work:
        assert work.webhooks.secret("a") == first != other
        renewed = work.webhooks.renew_secret("a")
    with database.write() as work:
        assert work.webhooks.secret("a") == renewed != first
        assert work.webhooks.secret("b") == other


def test_deliveries_go_with_their_job(database: Database) -> None:
    job_id = failed_job(database)
    with database.write() as work:
        work._session.delete(work._session.get_one(Job, job_id))
    assert deliveries(database, job_id) == []
