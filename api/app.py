"""The application: `create_app()` wires routes, errors and resources together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from api import errors, openapi
from api.body_limit import BodyLimit
from api.deps import Resources
from api.routes import artifacts, catalogue, checkpoints, datasets, events, health, jobs, resumable, web
from api.services.watching import Hub
from api.settings import ApiSettings
from api.shutdown import told_to_stop
from store.blobs import make_blobs
from store.database import Database
from store.queue import Queue


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: ApiSettings = app.state.settings
    app.state.resources = resources = Resources(
        Database.from_settings(settings),
        make_blobs(settings.blobs_url, settings.s3_endpoint),
        Queue(settings.broker_url),
        timedelta(hours=settings.idempotency_hours),
    )
    app.state.hub = hub = Hub(resources.database)
    try:
        async with hub.running():
            with told_to_stop(hub.close):
                yield
    finally:
        resources.queue.close()
        resources.database.dispose()


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    app = FastAPI(
        title="zsq",
        version="1",
        description="Zero-shot quantization: a full-precision checkpoint in, a low-bit ONNX file out.",
        lifespan=_lifespan,
        redirect_slashes=False,
        # Their pages load scripts from elsewhere; the document itself stays at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings or ApiSettings()
    errors.install(app)
    openapi.install(app)
    app.add_middleware(BodyLimit)
    for routes in (checkpoints, datasets, resumable, jobs, events, artifacts, catalogue, health, web):
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=web.WEB / "static"), name="static")
    return app
