"""Traces by OpenTelemetry, when `OTEL_EXPORTER_OTLP_ENDPOINT` says where to. Else nothing is imported.

A job outlives the request that submitted it and the message that woke its worker, and may run more
than once: its row keeps the trace that it belongs to (`traceparent`, W3C Trace Context).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI
    from opentelemetry.trace import Span
    from sqlalchemy import Engine

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# They would drown the rest.
_UNTRACED = "healthz,readyz,metrics,static"

_on = False


def start(service: str) -> None:
    """Once a process, before anything is instrumented. `OTEL_SERVICE_NAME` goes before `service`."""
    global _on
    wanted = any(os.environ.get(name) for name in _ENDPOINTS)
    if _on or not wanted or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    try:
        _provide(service)
    except ImportError as error:
        log.warning("no traces, though %s is set: pip install 'zsq[otel]' (%s)", _ENDPOINTS[0], error)
        return
    _on = True


def _provide(service: str) -> None:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: F401
    from opentelemetry.instrumentation.sqlalchemy.engine import EngineTracer  # noqa: F401
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()


def instrument_app(app: FastAPI) -> None:
    if _on:
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(app, excluded_urls=_UNTRACED, exclude_spans=["receive", "send"])


def instrument_engine(engine: Engine) -> None:
    """The SQL, without the values that it is given."""
    if _on:
        from opentelemetry import metrics, trace
        from opentelemetry.instrumentation.sqlalchemy.engine import EngineTracer

        # Not by its instrumentor, which also patches SQLAlchemy's asyncio side and fails without greenlet.
        usage = metrics.get_meter(__name__).create_up_down_counter("db.client.connections.usage")
        EngineTracer(trace.get_tracer(__name__), engine, usage)


def traceparent() -> str | None:
    """Of what is going on here, to be kept with what will go on later."""
    if not _on:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def span(name: str, parent: str | None = None, **attributes: str | int) -> Iterator[Span | None]:
    """A span in the trace of `parent`, linked with what goes on here; without one, below it."""
    if not _on:
        yield None
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    options: dict[str, Any] = {"attributes": {f"zsq.{key}": value for key, value in attributes.items()}}
    if parent is not None:
        options["context"] = TraceContextTextMapPropagator().extract({"traceparent": parent})
        options["links"] = [trace.Link(trace.get_current_span().get_span_context())]
    with trace.get_tracer(__name__).start_as_current_span(name, **options) as started:
        yield started


@contextmanager
def untraced() -> Iterator[None]:
    """For what repeats every second for as long as a process lives."""
    if not _on:
        yield
        return
    from opentelemetry.instrumentation.utils import suppress_instrumentation

    with suppress_instrumentation():
        yield


def stop() -> None:
    """Sends what has not been sent yet."""
    if _on:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider

        provider = trace.get_tracer_provider()
        if isinstance(provider, TracerProvider):
            provider.shutdown()
