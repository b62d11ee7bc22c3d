"""The application: `create_app()` wires routes, errors and resources together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from api import cors, errors, openapi
from api.access.keyring import Keyring
from api.access.rates import Counters, Rate
from api.access.slots import Slots
from api.body_limit import BodyLimit
from api.browsers import OwnPages
from api.deps import Access, Resources
from api.guard import Guard
from api.observe import Observed
from api.routes import (
    artifacts,
    catalogue,
    checkpoints,
    datasets,
    events,
    health,
    jobs,
    limits,
    metrics,
    resumable,
    web,
    webhooks,
)
from api.security_headers import SecurityHeaders
from api.services.gauges import StateGauges
from api.services.health import Health
from api.services.watching import Hub
from api.settings import ApiSettings
from api.shutdown import told_to_stop
from api.tus_version import TusVersion
from store import tracing
from store.blobs import make_blobs
from store.database import Database
from store.queue import Queue

# Threads for /readyz and /metrics.
_WATCHERS = 16


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: ApiSettings = app.state.settings
    database, counters = Database.from_settings(settings), Counters(settings.broker_url)
    app.state.resources = resources = Resources(
        database,
        make_blobs(settings.blobs_url, settings.s3_endpoint),
        Queue(settings.broker_url),
        _access(settings, database, counters),
        timedelta(hours=settings.idempotency_hours),
        settings.webhook_allowed_networks,
    )
    app.state.hub = hub = Hub(database)
    app.state.health = Health(resources)
    app.state.gauges = CollectorRegistry()
    app.state.gauges.register(StateGauges(resources))
    app.state.watchers = CapacityLimiter(_WATCHERS)
    try:
        async with hub.running():
            with told_to_stop(hub.close):
                yield
    finally:
        await counters.close()
        resources.queue.close()
        resources.database.dispose()
        tracing.stop()


class Service(FastAPI):
    """Observed from outside: Starlette's own middleware would not see the 500 of an unforeseen error."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Observed(super().__call__)(scope, receive, send)


def _access(settings: ApiSettings, database: Database, counters: Counters) -> Access:
    return Access(
        keyring=Keyring(database),
        calls=Rate("calls", settings.rate_per_minute, counters),
        failures=Rate("failed-keys", settings.failed_keys_per_minute, counters),
        uploads=Slots(settings.owner_uploads),
        begun_uploads=settings.owner_begun_uploads,
        stored_bytes=settings.owner_stored_bytes,
        queued_jobs=settings.owner_queued_jobs,
    )


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    tracing.start("zsq-api")
    app = Service(
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
    tracing.instrument_app(app)
    errors.install(app)
    openapi.install(app)
    # The last one added is the first to see a call; `Observed` stands outside of all.
    app.add_middleware(BodyLimit, seconds=settings.body_seconds)
    app.add_middleware(Guard, settings=settings)
    cors.install(app, settings)
    app.add_middleware(OwnPages, settings=settings)
    app.add_middleware(SecurityHeaders, settings=settings)
    app.add_middleware(TusVersion)
    work = (checkpoints, datasets, resumable, jobs, events, artifacts, webhooks)
    for routes in (*work, limits, catalogue, health, metrics, web):
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=web.WEB / "static"), name="static")
    return app
