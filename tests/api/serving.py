"""The application behind a real server and real sockets: in a thread of the test, or as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.deps import Resources
from api.services.watching import Hub
from api.settings import ApiSettings
from store.database import Database
from store.migrate import upgrade
from tests.servers import free_port
from tests.waiting import until


@dataclass(frozen=True)
class Served:
    url: str
    app: FastAPI

    @property
    def resources(self) -> Resources:
        found = self.app.state.resources
        assert isinstance(found, Resources)
        return found

    @property
    def database(self) -> Database:
        return self.resources.database

    @property
    def hub(self) -> Hub:
        found = self.app.state.hub
        assert isinstance(found, Hub)
        return found


@contextmanager
def serving(settings: ApiSettings, **options: Any) -> Iterator[Served]:
    """`options` are more of uvicorn's."""
    upgrade(settings.database_url)
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{port}", app)
    finally:
        server.should_exit = True
        app.state.hub.close()  # no signal arrives in this thread
        thread.join(20)
        assert not thread.is_alive()


@dataclass(frozen=True)
class ServerProcess:
    url: str
    process: subprocess.Popen[bytes]

    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


@contextmanager
def server_process(
    settings: ApiSettings, command: Sequence[str] = ("-m", "api"), *, port: int = 0
) -> Iterator[ServerProcess]:
    """The API as a process of its own; killed in the end if it is still there."""
    upgrade(settings.database_url)
    port = port or free_port()
    env = {
        **os.environ,
        "ZSQ_DATA_DIR": str(settings.data_dir),
        "ZSQ_DATABASE_URL": settings.database_url,
        "ZSQ_BROKER_URL": settings.broker_url,
        "ZSQ_PORT": str(port),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    arguments = [*command, "--port", str(port)] if "uvicorn" in command else command
    process = subprocess.Popen([sys.executable, *arguments], env=env, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        assert process.poll() is None
        try:
            return httpx.get(f"{url}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(up, 120)
        yield ServerProcess(url, process)
    finally:
        process.kill()
        process.wait()
