"""Which other pages may call the API from a browser: none, until ZSQ_CORS_ORIGINS names them."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from api.settings import ApiSettings

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_SENT = (
    *("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Request-ID", "traceparent"),
    *("If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since", "Range"),
    *("Tus-Resumable", "Upload-Checksum", "Upload-Length"),
    *("Upload-Metadata", "Upload-Offset", "X-HTTP-Method-Override"),
)
_READ = (
    *("Content-Disposition", "Content-Range", "ETag", "Idempotent-Replayed", "Location", "RateLimit"),
    *("RateLimit-Policy", "Retry-After", "WWW-Authenticate", "X-Request-ID"),
    *("Tus-Checksum-Algorithm", "Tus-Extension", "Tus-Max-Size", "Tus-Resumable", "Tus-Version"),
    *("Upload-Expires", "Upload-Length", "Upload-Metadata", "Upload-Offset", "Zsq-Resource"),
)
_PREFLIGHT_SECONDS = 600


def install(app: FastAPI, settings: ApiSettings) -> None:
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=_METHODS,
            allow_headers=_SENT,
            expose_headers=_READ,
            max_age=_PREFLIGHT_SECONDS,
        )
