"""What the API counts for Prometheus. Calls of other modules are single lines: `metrics.uploaded(n)`.

No label comes from what a caller sends: routes are templates, methods are HTTP's own, statuses are
classes. So the number of series is bounded by the code.
"""

from __future__ import annotations

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"

_LABELS = ("method", "route", "status")
_REQUESTS = Counter("zsq_http_requests", "Requests answered, by route template and status class.", _LABELS)
_SECONDS = Histogram(
    "zsq_http_request_seconds",
    "From a request's first byte to its answer's last; event streams are left out.",
    _LABELS,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
_IN_FLIGHT = Gauge("zsq_http_requests_in_flight", "Requests that are being answered.")
_UPLOADED = Counter("zsq_upload_bytes", "Bytes of uploads received, also of those that were refused.")
_LIMITED = Counter("zsq_rate_limited", "Requests refused by a limit.", ("limit",))
_STREAMS = Gauge("zsq_event_streams", "Open event streams.")


def began() -> None:
    _IN_FLIGHT.inc()


def answered(method: str, route: str | None, status: int, seconds: float, *, stream: bool) -> None:
    """`route` is the template, None where none matched."""
    labels = (method if method in METHODS else "OTHER", route or UNMATCHED, f"{status // 100}xx")
    _IN_FLIGHT.dec()
    _REQUESTS.labels(*labels).inc()
    if not stream:
        _SECONDS.labels(*labels).observe(seconds)


def uploaded(size: int) -> None:
    _UPLOADED.inc(size)


def limited(limit: str) -> None:
    """`limit` is the code's own name of what was exceeded, never a caller's word."""
    _LIMITED.labels(limit).inc()


def stream_opened() -> None:
    _STREAMS.inc()


def stream_closed() -> None:
    _STREAMS.dec()


__all__ = [
    "REGISTRY",
    "answered",
    "began",
    "limited",
    "stream_closed",
    "stream_opened",
    "uploaded",
]
