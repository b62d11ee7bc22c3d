"""The application: `create_app()` wires routes, errors and resources together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from api import cors, errors, openapi
from api.access.keyring import Keyring
from api.access.rates import Counters, Rate
from api.access.slots import Slots
from api.body_limit import BodyLimit
from api.browsers import OwnPages
from api.deps import Access, Resources
from api.guard import Guard
from api.routes import (
    artifacts,
    catalogue,
    checkpoints,
    datasets,
    events,
    health,
    jobs,
    limits,
    resumable,
    web,
    webhooks,
)
from api.security_headers import SecurityHeaders
from api.services.watching import Hub
from api.settings import ApiSettings
from api.shutdown import told_to_stop
from store.blobs import make_blobs
from store.database import Database
from store.queue import Queue

# Uploads write often: what has not grown for a day belongs to no one.
_ABANDONED_SECONDS = 24 * 3600.0


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: ApiSettings = app.state.settings
    blobs = make_blobs(settings.blobs_url)
    blobs.remove_abandoned(_ABANDONED_SECONDS)
    database, counters = Database.from_settings(settings), Counters(settings.broker_url)
    access = _access(settings, database, counters)
    app.state.resources = resources = Resources(
        database, blobs, Queue(settings.broker_url), access, settings.webhook_allowed_networks
    )
    app.state.hub = hub = Hub(database)
    try:
        async with hub.running():
            with told_to_stop(hub.close):
                yield
    finally:
        await counters.close()
        resources.queue.close()
        resources.database.dispose()


def _access(settings: ApiSettings, database: Database, counters: Counters) -> Access:
    return Access(
        keyring=Keyring(database),
        calls=Rate("calls", settings.rate_per_minute, counters),
        failures=Rate("failed-keys", settings.failed_keys_per_minute, counters),
        uploads=Slots(settings.owner_uploads),
        stored_bytes=settings.owner_stored_bytes,
        queued_jobs=settings.owner_queued_jobs,
    )


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
    app.state.settings = settings = settings or ApiSettings()
    errors.install(app)
    openapi.install(app)
    # The last one added is the first to see a call.
    app.add_middleware(BodyLimit, seconds=settings.body_seconds)
    app.add_middleware(Guard, settings=settings)
    cors.install(app, settings)
    app.add_middleware(OwnPages, settings=settings)
    app.add_middleware(SecurityHeaders, settings=settings)
    uploads_and_jobs = (checkpoints, datasets, resumable, jobs, events, artifacts)
    for routes in (*uploads_and_jobs, webhooks, limits, catalogue, health, web):
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=web.WEB / "static"), name="static")
    return app
