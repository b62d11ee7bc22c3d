"""The engine and the unit of work: one transaction, with every repository in it."""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    InterfaceError,
    InvalidatePoolError,
    OperationalError,
    ProgrammingError,
    TimeoutError,
)
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

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

# How long a transaction waits for the one that writes, in seconds.
_SQLITE_PATIENCE = 30

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

# A connection that idled for longer is asked whether its server is still there. Not each time, which would
# double the round trips of a poll: one that is lost in between is like one that is lost during a query.
_FRESH_SECONDS = 1.0
_RETURNED = "zsq_returned_at"


def make_engine(url: str) -> Engine:
    """An engine for SQLite or PostgreSQL.

    SQLite gets WAL, foreign keys, a busy timeout, and BEGIN IMMEDIATE for writing transactions:
    deferred ones fail as locked when two of them read before they write, and no timeout helps.
    `postgresql://` is read as psycopg 3, the driver that is installed.

    On PostgreSQL each transaction commits or rolls back by a round trip of its own: reads do without one (see
    `Database.read`), and a connection is only asked whether it lives when it has idled.
    """
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    sqlite = parsed.get_backend_name() == "sqlite"
    if sqlite and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        parsed,
        # As many as the API has threads: a call must not wait for a connection that another one holds.
        pool_size=10,
        max_overflow=30,
        json_serializer=_to_json,
        connect_args={"timeout": _SQLITE_PATIENCE} if sqlite else POSTGRES_PATIENCE,
        # Errors are logged, and what is queried for may be a secret.
        hide_parameters=True,
    )
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        _ask_idle_connections(engine)
    return engine


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # no BEGIN of the driver's own: `_begin_sqlite` says which
    for pragma in ("synchronous=NORMAL", f"busy_timeout={_SQLITE_PATIENCE * 1000}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()
    _use_wal(connection)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Of two that change a new database's mode at once SQLite refuses one at once: each has a read lock."""
    deadline = time.monotonic() + _SQLITE_PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _ask_idle_connections(engine: Engine) -> None:
    """Whether their server is still there, before they are used. Where one's is not, all are made anew."""

    def note_return(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[_RETURNED] = time.monotonic()

    def ask(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        if time.monotonic() - record.info.get(_RETURNED, math.inf) < _FRESH_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError() from error

    event.listen(engine, "checkin", note_return)
    event.listen(engine, "checkout", ask)


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


def _reading(engine: Engine) -> Engine:
    """PostgreSQL's READ COMMITTED shows each query what is committed: without a transaction it is the same.

    And BEGIN and ROLLBACK are two round trips fewer. SQLite's are not even calls of the kernel.
    """
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="AUTOCOMMIT")


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
        self.reading_engine = _reading(engine)

    @classmethod
    def from_settings(cls, settings: StoreSettings) -> Database:
        engine = make_engine(settings.database_url)
        tracing.instrument_engine(engine)
        return cls(engine)

    @contextmanager
    def read(self) -> Iterator[UnitOfWork]:
        """Each query sees what was committed before it, the next one maybe more.

        Raises Unavailable when the database cannot be reached; so does `write`.
        """
        with _reached(), Session(self.reading_engine, expire_on_commit=False) as session:
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
