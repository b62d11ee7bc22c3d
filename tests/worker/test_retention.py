from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text

from store.tables import IdempotencyKey, PartialUpload, utc_now
from tests.worker.doubles import PREFIX
from tests.worker.world import World
from worker.jobs import run_jobs
from worker.retention import expire
from worker.settings import WorkerSettings


def ended_job(world: World, days: float) -> str:
    job_id = world.job()
    run_jobs(world.services, ("any",), entry=PREFIX + "quantize")
    _age(world, "job", "finished_at", days, "id", job_id)
    return job_id


def _age(world: World, table: str, column: str, days: float, key: str, value: str) -> None:
    then = (utc_now() - timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S.%f")
    with world.services.database.writing_engine.begin() as connection:
        zone = "+00" if connection.dialect.name == "postgresql" else ""
        change = text(f"UPDATE {table} SET {column} = '{then}{zone}' WHERE {key} = :value")
        connection.execute(change, {"value": value})


def keeping(world: World, **days: float) -> dict[str, int]:
    settings = world.services.settings.model_copy(update={f"keep_{kind}_days": n for kind, n in days.items()})
    return expire(replace(world.services, settings=settings))


def test_everything_is_kept_for_ever_unless_told(world: World) -> None:
    job_id = ended_job(world, days=3000)
    assert not any(expire(world.services).values())
    assert world.look(job_id).status == "succeeded"


def test_jobs_go_and_later_what_they_used(world: World) -> None:
    old, new = ended_job(world, days=40), ended_job(world, days=20)
    for job_id in (old, new):
        _age(world, "checkpoint", "updated_at", 40, "id", world.look(job_id).checkpoint_id or "")
    gone = keeping(world, jobs=30, uploads=30)
    assert (gone["jobs"], gone["checkpoints"]) == (1, 1)
    assert world.change(lambda work: work.jobs.get(old)) is None
    assert world.look(new).checkpoint_id is not None


def test_more_rows_than_one_transaction_takes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.retention._BATCH", 2)
    for _ in range(5):
        row = world.checkpoint()
        _age(world, "checkpoint", "updated_at", 40, "id", row)
    assert keeping(world, uploads=30)["checkpoints"] == 5


def test_keys_of_yesterday_and_expired_uploads_always_go(world: World) -> None:
    now = utc_now()
    with world.services.database.write() as work:
        for hours in (23, 25):
            work.retention._session.add(
                IdempotencyKey(
                    owner="local",
                    key=f"{hours} hours",
                    fingerprint="f",
                    status=202,
                    response={},
                    created_at=now - timedelta(hours=hours),
                )
            )
            work.retention._session.add(
                PartialUpload(
                    id=f"up_{hours}",
                    owner="local",
                    kind="dataset",
                    fields={},
                    length=9,
                    expires_at=now + timedelta(hours=24 - hours),
                )
            )
    gone = expire(world.services)
    assert (gone["idempotency keys"], gone["partial uploads"]) == (1, 1)


@pytest.mark.parametrize("days", [0, -1, float("inf"), float("nan"), 10**9])
def test_senseless_times_are_refused(days: float) -> None:
    with pytest.raises(ValueError, match="keep_jobs_days"):
        WorkerSettings(keep_jobs_days=days)
