"""zsq scaled out on one machine: API processes, workers and what they stand on, with short patience."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx
import psutil

from faults.process import Process, wait_for
from faults.records import Records
from faults.servers import BUCKET, Postgres, free_port, s3, valkey

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180.0

# A lost worker is noticed within seconds, so that a cell of the kill matrix takes no minute.
SETTINGS = {
    "ZSQ_LEASE_SECONDS": "6",
    "ZSQ_HEARTBEAT_SECONDS": "1",
    "ZSQ_MAX_ATTEMPTS": "3",
    "ZSQ_SWEEP_SECONDS": "1",
    "ZSQ_RETRY_SECONDS": "0.5",
    "ZSQ_RETRY_MAX_SECONDS": "2",
    "ZSQ_SHUTDOWN_GRACE_SECONDS": "5",
    "ZSQ_COLLECT_SECONDS": "2",
    "ZSQ_COLLECT_GRACE_SECONDS": "5",
    "ZSQ_TORCH_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """How much of everything; each worker has a data folder of its own, as if on a machine of its own."""

    apis: int = 1
    workers: int = 2
    database: Literal["sqlite", "postgresql"] = "postgresql"
    blobs: Literal["folder", "s3"] = "folder"


class Cluster:
    """Entering starts it and returns once every API is ready; leaving stops every process of it."""

    def __init__(
        self, shape: Shape, settings: Mapping[str, str] | None = None, *, keep_logs: Path | None = None
    ) -> None:
        """`settings` go over the short ones above; `keep_logs`: where the logs are copied at the end."""
        self.shape = shape
        self._keep_logs = keep_logs
        self.folder = Path(tempfile.mkdtemp(prefix="zsq-cluster-"))
        self._launcher = ThreadPoolExecutor(1, "launcher")
        self._env = _clean_environment() | SETTINGS | dict(settings or {})
        self.max_attempts = int(self._env["ZSQ_MAX_ATTEMPTS"])
        self.heartbeat_seconds = float(self._env["ZSQ_HEARTBEAT_SECONDS"])
        self.postgres: Postgres | None = None
        self.s3: Process | None = None
        self.apis: list[Process] = []
        self.workers: list[Process] = []
        self.urls: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        database_url = f"sqlite:///{self.folder / 'zsq.db'}"
        if self.shape.database == "postgresql":
            self.postgres = Postgres()
            database_url = self.postgres.url
        blobs = self.folder / "blobs"
        s3_env: Mapping[str, str] = {}
        if self.shape.blobs == "s3":
            self.s3, s3_env = s3(self.folder / "logs", self._launcher)
        self.broker, broker_url = valkey(self.folder / "logs", self._launcher)
        self.broker.start()
        self._env |= {
            **s3_env,
            "ZSQ_DATABASE_URL": database_url,
            "ZSQ_BROKER_URL": broker_url,
            "ZSQ_BLOBS_URL": f"s3://{BUCKET}/blobs" if s3_env else blobs.as_uri(),
        }
        self._migrate()
        self.records = Records(database_url, blobs, s3_env)
        for index in range(self.shape.apis):
            port = free_port()
            self.urls.append(f"http://127.0.0.1:{port}")
            self.apis.append(self._zsq(f"api{index}", ["api"], {"ZSQ_PORT": str(port)}))
        self.control = self._zsq("control", ["worker", "control"])
        for index in range(self.shape.workers):
            name = f"worker{index}"
            command = ["worker", "cpu", "--hostname", f"{name}@%h"]
            self.workers.append(self._zsq(name, command))
        for process in self.processes:
            if not process.running:
                process.start()
        for url in self.urls:
            wait_for(lambda url=url: _ready(url), START_SECONDS, f"{url} is ready")  # type: ignore[misc]

    def _zsq(self, name: str, command: list[str], env: Mapping[str, str] | None = None) -> Process:
        data_dir = self.folder / name
        env = self._env | {"ZSQ_DATA_DIR": str(data_dir)} | dict(env or {})
        return Process(name, [sys.executable, "-m", *command], env, self.folder / "logs", self._launcher)

    def _migrate(self) -> None:
        command = [sys.executable, "-m", "store.migrate"]
        env = self._env | {"ZSQ_DATA_DIR": str(self.folder / "migrate")}
        subprocess.run(command, env=env, cwd=self.folder, check=True, capture_output=True)

    @property
    def processes(self) -> list[Process]:
        """Those of zsq itself."""
        return [*self.apis, self.control, *self.workers]

    def worker_of(self, name: str | None) -> Process | None:
        """The living worker that a job's row names as `host:pid`."""
        pid = (name or "").rpartition(":")[2]
        return next((worker for worker in self.workers if worker.running and str(worker.pid) == pid), None)

    def left_over(self) -> list[psutil.Process]:
        """What killed processes left alive."""
        return [found for process in self.processes for found in process.left_over()]

    def jobs_running(self) -> list[psutil.Process]:
        return [child for process in [self.control, *self.workers] for child in process.children()]

    def logs(self) -> str:
        return "\n".join(process.last_words() for process in self.processes)

    def close(self) -> None:
        """Stops everything, the clients of a server before the server."""
        if hasattr(self, "control"):
            for process in self.processes:
                process.terminate()
            for process in self.processes:
                process.stop()
        if hasattr(self, "records"):
            self.records.close()
        if hasattr(self, "broker"):
            self.broker.stop()
        if self.s3 is not None:
            self.s3.stop()
        if self.postgres is not None:
            self.postgres.close()
        self._launcher.shutdown()
        if self._keep_logs is not None:
            shutil.copytree(self.folder / "logs", self._keep_logs, dirs_exist_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _clean_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZSQ_", "AWS_"))}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
