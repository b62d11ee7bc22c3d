"""The API's settings, beside the store's. Environment prefix `ZSQ_`; all stand in `.env.example`."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from api.loopback import is_loopback
from store.settings import StoreSettings


def _listed(value: Any) -> Any:
    """A JSON list or a comma list."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def _origins(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value != "*" and not re.fullmatch(r"https?://[^/\s]+", value):
            raise ValueError(f"{value!r} is no origin: write it as https://pages.example.org, without a path")
    return tuple(value.lower() for value in values)


def _hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not re.fullmatch(r"(\*\.)?[\w.-]+|\[?[0-9a-fA-F:.]+\]?", value):
            raise ValueError(f"{value!r} is no host: write zsq.example.org or *.example.org, without a port")
    return tuple(value.strip("[]").lower() for value in values)


Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_origins)]
Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_hosts)]
# Zero is no limit.
Count = Annotated[int, Field(ge=0)]


class ApiSettings(StoreSettings):
    host: str = "127.0.0.1"
    """The address to listen on."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8000

    max_upload_bytes: Annotated[int, Field(ge=1)] = 8 * 2**30
    """The largest file that is taken; what is longer is refused with 413 while it streams in."""

    auth: Literal["auto", "required", "off"] = "auto"
    """Whether calls need an API key: `auto` unless `host` is loopback; `off` only works there."""

    allowed_hosts: Hosts = ()
    """The names that a Host header may have, beside loopback's; `*.example.org` for all below."""

    cors_origins: Origins = ()
    """Whose pages may call the API from a browser; empty: only its own."""

    hsts_seconds: Count = 0
    """For how long browsers are to insist on HTTPS; 0 says nothing of it."""

    body_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """How long a body may pause while it is sent; one that is read whole must be there by then."""

    rate_per_minute: Count = 0
    """Calls of one owner in any minute; 0: as many as come."""

    failed_keys_per_minute: Count = 30
    """Keys from one address that are none, in any minute, before they are no longer looked up."""

    owner_stored_bytes: Count = 0
    """What the checkpoints, datasets and begun uploads of one owner may take; 0: no limit."""

    owner_queued_jobs: Count = 1000
    """Jobs of one owner that may wait at the same time; 0: no limit."""

    owner_uploads: Count = 16
    """Uploads of one owner at the same time, in one API process; 0: no limit."""

    owner_begun_uploads: Count = 100
    """Resumable uploads that one owner may have begun and not ended; 0: no limit."""

    @property
    def auth_required(self) -> bool:
        return self.auth == "required" or (self.auth == "auto" and not is_loopback(self.host))

    @model_validator(mode="after")
    def _open_to_this_machine_alone(self) -> ApiSettings:
        if self.auth == "off" and not is_loopback(self.host):
            raise ValueError(
                f"ZSQ_AUTH=off would open the API to everyone who reaches ZSQ_HOST={self.host}. Listen on "
                "127.0.0.1, or leave ZSQ_AUTH at auto and make keys with `zsq keys create`."
            )
        if "*" in self.cors_origins and not self.auth_required:
            raise ValueError(
                "ZSQ_CORS_ORIGINS=* without API keys would let any page in a browser on this machine use the "
                "API. Name the origins, or set ZSQ_AUTH=required."
            )
        return self


def settings_of(request: Request) -> ApiSettings:
    settings = request.app.state.settings
    assert isinstance(settings, ApiSettings)
    return settings
