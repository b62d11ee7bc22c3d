from __future__ import annotations

from pathlib import Path

import pytest

from store.database import Database, make_engine
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
