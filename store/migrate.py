"""Brings a database's schema up to date: `python -m store.migrate`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from store.database import Database, make_engine
from store.logging import configure
from store.settings import store_settings

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


def alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def upgrade(url: str) -> None:
    """Runs every migration that the database lacks. Safe when several processes do so at once."""
    database = Database(make_engine(url))
    config = alembic_config()
    try:
        with database.writing_engine.begin() as connection:
            if connection.dialect.name == "postgresql":  # SQLite's BEGIN IMMEDIATE already excludes others
                connection.execute(text("SELECT pg_advisory_xact_lock(1, 0)"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        database.dispose()


def schema_state(database: Database) -> Literal["current", "behind", "ahead"]:
    """The database's schema against this code's migrations; `ahead` is a revision that they do not know.

    Raises Unavailable when the database cannot be reached.
    """
    with database.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return "behind"
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    *_, newest = known = _revisions()
    if found == newest:
        return "current"
    return "behind" if found is None or found in known else "ahead"


@cache
def _revisions() -> list[str]:
    """Oldest first."""
    scripts = ScriptDirectory.from_config(alembic_config())
    return [script.revision for script in scripts.walk_revisions()][::-1]


if __name__ == "__main__":
    configure(store_settings().log_format, store_settings().log_level)
    upgrade(store_settings().database_url)
