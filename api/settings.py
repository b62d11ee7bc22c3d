"""The API's settings, beside the store's. Environment prefix `ZSQ_`; all stand in `.env.example`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request
from pydantic import Field

from store.settings import StoreSettings


class ApiSettings(StoreSettings):
    host: str = "127.0.0.1"
    """The address to listen on. There is no authentication yet: keep it on this machine."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8000

    max_upload_bytes: Annotated[int, Field(ge=1)] = 8 * 2**30
    """The largest file that is taken; what is longer is refused with 413 while it streams in."""


def settings_of(request: Request) -> ApiSettings:
    settings = request.app.state.settings
    assert isinstance(settings, ApiSettings)
    return settings
