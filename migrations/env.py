"""Alembic's entry: runs on the connection that `store.migrate` hands over, or on the settings' database."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from sqlalchemy import JSON, Connection

from store.database import make_engine
from store.settings import store_settings
from store.tables import Base, UtcDateTime


def render(kind: str, item: Any, autogen_context: Any) -> str | Literal[False]:
    """Migrations are history: they name the database's types, not classes that may change."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, JSON):
        return "sa.JSON()"
    return False


def run(connection: Connection) -> None:
    # SQLite cannot alter most things in place: batch mode copies the table.
    context.configure(
        connection=connection, target_metadata=Base.metadata, render_as_batch=True, render_item=render
    )
    with context.begin_transaction():
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    with make_engine(store_settings().database_url).begin() as own:
        run(own)
