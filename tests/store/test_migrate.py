from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from store.database import Database
from store.migrate import alembic_config, upgrade
from store.tables import Base
from tests.store.rows import queued_job


def test_migrations_make_exactly_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert set(inspect(connection).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


def test_upgrade_again_changes_nothing(database: Database, database_url: str) -> None:
    upgrade(database_url)
    database.ping()


def test_downgrade_leaves_nothing_and_upgrade_comes_back(database: Database, database_url: str) -> None:
    config = alembic_config()
    with database.writing_engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
    upgrade(database_url)
    database.ping()


def test_processes_that_start_together_may_all_upgrade(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'zsq.db'}"
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(upgrade, url) for _ in range(4)]:
            done.result()


def test_going_back_one_step_and_forward_again_keeps_the_rows(database: Database, database_url: str) -> None:
    job = queued_job(database)
    config = alembic_config()
    with database.writing_engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    upgrade(database_url)
    with database.read() as work:
        found = work.jobs.get(job)
        assert found is not None and found.device == "any"
        assert [event.kind for event in work.jobs.events(job)] == ["status"]
