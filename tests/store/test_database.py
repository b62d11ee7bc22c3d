from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from store.database import Database, UnitOfWork, make_engine
from store.errors import Unavailable
from store.migrate import schema_state
from store.tables import new_id


def test_postgresql_is_spoken_with_the_installed_driver() -> None:
    for scheme in ("postgresql", "postgresql+psycopg"):
        assert make_engine(f"{scheme}://u:p@host/db").url.drivername == "postgresql+psycopg"


def test_a_server_that_vanishes_is_given_up_in_seconds(postgres_url: str) -> None:
    database = Database(make_engine(postgres_url))
    with database.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        used = driver.info.get_parameters()
    database.dispose()
    assert (used["keepalives_idle"], used["keepalives_interval"], used["keepalives_count"]) == (
        "10",
        "5",
        "3",
    )
    assert used["tcp_user_timeout"] == "20000"


@pytest.fixture
def on_postgres(postgres_url: str) -> Iterator[Database]:
    database = Database(make_engine(postgres_url))
    yield database
    database.dispose()


def end_sessions(postgres_url: str) -> None:
    """As a restarted server, or a proxy between that has had enough."""
    with psycopg.connect(postgres_url, autocommit=True) as other:
        # Waits for it: a session that was told to end may still answer.
        other.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid != pg_backend_pid()"
        )


def test_a_connection_that_idled_is_asked_before_it_is_used(
    on_postgres: Database, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.database._FRESH_SECONDS", 0.0)
    on_postgres.ping()
    end_sessions(postgres_url)
    on_postgres.ping()


def test_one_lost_in_use_is_an_error_once(
    on_postgres: Database, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.database._FRESH_SECONDS", 600.0)
    with on_postgres.connect(), on_postgres.connect():
        pass  # two wait in the pool
    end_sessions(postgres_url)
    with pytest.raises(Unavailable):
        on_postgres.ping()
    on_postgres.ping()


def test_reads_hold_no_transaction_and_writes_still_do(on_postgres: Database) -> None:
    def status(work: UnitOfWork) -> TransactionStatus:
        driver = work.jobs._session.connection().connection.driver_connection
        assert driver is not None
        driver.execute("SELECT 1")
        return driver.info.transaction_status

    for _ in range(2):
        with on_postgres.read() as work:
            assert status(work) == TransactionStatus.IDLE
        with on_postgres.write() as work:
            assert status(work) == TransactionStatus.INTRANS


def test_a_new_database_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    for attempt in range(100):  # a race: some of them fail when it is lost
        together = Barrier(4)

        def opened(url: str = f"sqlite:///{tmp_path / str(attempt)}", together: Barrier = together) -> None:
            database = Database(make_engine(url))
            together.wait()
            database.ping()
            database.dispose()

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(opened) for _ in range(4)]:
                done.result()


def test_a_database_without_tables_answers_pings_and_no_questions(tmp_path: Path) -> None:
    database = Database(make_engine(f"sqlite:///{tmp_path / 'zsq.db'}"))
    database.ping()
    assert schema_state(database) == "behind"
    with pytest.raises(Unavailable), database.read() as work:
        work.jobs.get("")


def test_what_was_asked_for_does_not_stand_in_errors(tmp_path: Path) -> None:
    database = Database(make_engine(f"sqlite:///{tmp_path / 'zsq.db'}"))
    with pytest.raises(Unavailable) as caught, database.read() as work:
        work.jobs.get("a secret")
    assert "a secret" not in str(caught.value.__cause__)


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    ids = [new_id("job") for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [id[:16] for id in ids] == sorted(id[:16] for id in ids)
    assert all(len(id) == len("job_") + 24 for id in ids)
