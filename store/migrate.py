"""Brings a database's schema up to date: `python -m store.migrate`."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from store.database import Database, make_engine
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


if __name__ == "__main__":
    upgrade(store_settings().database_url)
