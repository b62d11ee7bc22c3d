"""The engine and the unit of work: one transaction, with every repository in it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError, TimeoutError
from sqlalchemy.orm import Session

from store import tracing
from store.blob_repository import BlobRepository
from store.errors import Unavailable
from store.idempotency_repository import IdempotencyRepository
from store.job_repository import JobRepository
from store.key_repository import KeyRepository
from store.locks import Lock, lock
from store.partial_upload_repository import PartialUploadRepository
from store.repositories import ArtifactRepository, CheckpointRepository, DatasetRepository
from store.retention_repository import RetentionRepository
from store.settings import StoreSettings
from store.usage_repository import UsageRepository
from store.watch_repository import WatchRepository
from store.webhook_repository import WebhookRepository

log = logging.getLogger(__name__)

# An execution option: this transaction is going to write.
_WRITES = "zsq_writes"

# A server that vanishes without a word is given up in seconds, not after the quarter of an hour for which the
# kernel sends again, or never where nothing was sent. In seconds, the last one in milliseconds.
POSTGRES_PATIENCE = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


def make_engine(url: str) -> Engine:
    """An engine for SQLite or PostgreSQL.

    SQLite gets WAL, foreign keys, a busy timeout, and BEGIN IMMEDIATE for writing transactions:
    deferred ones fail as locked when two of them read before they write, and no timeout helps.
    `postgresql://` is read as psycopg 3, the driver that is installed.
    """
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    sqlite = parsed.get_backend_name() == "sqlite"
    if sqlite and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        parsed,
        pool_pre_ping=not sqlite,
        # As many as the API has threads: a call must not wait for a connection that another one holds.
        pool_size=10,
        max_overflow=30,
        json_serializer=_to_json,
        connect_args={"timeout": 30} if sqlite else POSTGRES_PATIENCE,
        # Errors are logged, and what is queried for may be a secret.
        hide_parameters=True,
    )
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # no BEGIN of the driver's own: `_begin_sqlite` says which
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _to_json(value: Any) -> str:
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    """NaN and infinity become null: neither is JSON, and losses of a diverging run are both."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


@contextmanager
def _reached() -> Iterator[None]:
    """What no query can help, as one error of our own: callers need not know SQLAlchemy."""
    try:
        yield
    except (OperationalError, ProgrammingError, InterfaceError, TimeoutError) as error:
        log.warning("the database failed: %s", getattr(error, "orig", None) or error)
        raise Unavailable("The database cannot be reached, or lacks its tables. Try again soon.") from error


class UnitOfWork:
    """The repositories of one transaction. Rows stay readable after it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.checkpoints = CheckpointRepository(session)
        self.datasets = DatasetRepository(session)
        self.jobs = JobRepository(session)
        self.artifacts = ArtifactRepository(session)
        self.blobs = BlobRepository(session)
        self.retention = RetentionRepository(session)
        self.idempotency = IdempotencyRepository(session)
        self.partial_uploads = PartialUploadRepository(session)
        self.watches = WatchRepository(session)
        self.keys = KeyRepository(session)
        self.usage = UsageRepository(session)
        self.webhooks = WebhookRepository(session)

    def lock_digest(self, owner: str, digest: str) -> None:
        """Until the transaction ends, no other one looks for the owner's job with this digest."""
        lock(self._session, Lock.DIGEST, f"{owner}\0{digest}")

    def lock_owner(self, owner: str) -> None:
        """Until the transaction ends, no other one that asked for this lock adds to what the owner has."""
        lock(self._session, Lock.OWNER, owner)


class Database:
    """`with database.write() as work:` commits on a clean exit and rolls back on an error."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.writing_engine = engine.execution_options(**{_WRITES: True})

    @classmethod
    def from_settings(cls, settings: StoreSettings) -> Database:
        engine = make_engine(settings.database_url)
        tracing.instrument_engine(engine)
        return cls(engine)

    @contextmanager
    def read(self) -> Iterator[UnitOfWork]:
        """Raises Unavailable when the database cannot be reached; so does `write`."""
        with _reached(), Session(self.engine, expire_on_commit=False) as session:
            yield UnitOfWork(session)

    @contextmanager
    def write(self) -> Iterator[UnitOfWork]:
        with (
            _reached(),
            Session(self.writing_engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield UnitOfWork(session)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """For what concerns the database itself, not its rows. Raises Unavailable."""
        with _reached(), self.engine.connect() as connection:
            yield connection

    def ping(self) -> None:
        """Raises Unavailable when the database cannot be reached. Of its tables, `schema_state` tells."""
        with self.connect() as connection:
            connection.execute(text("SELECT 1"))

    def dispose(self) -> None:
        self.engine.dispose()
