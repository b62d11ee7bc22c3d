"""The application behind a real server and real sockets, in a thread of the test's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.deps import Resources
from api.services.watching import Hub
from api.settings import ApiSettings
from store.database import Database
from store.migrate import upgrade


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
def serving(settings: ApiSettings) -> Iterator[Served]:
    upgrade(settings.database_url)
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
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
