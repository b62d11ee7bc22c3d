"""Where things are kept. Read from the environment (`ZSQ_…`) and from `.env`; see `.env.example`."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class StoreSettings(BaseSettings):
    """`data_dir` holds whatever is not told to live elsewhere; the URLs default to places inside it."""

    model_config = SettingsConfigDict(env_prefix="ZSQ_", env_file=".env", extra="ignore")

    data_dir: Path = Path(".zsq")
    database_url: str = ""
    broker_url: str = "redis://127.0.0.1:6379/0"
    blobs_url: str = ""
    s3_endpoint: str = ""
    lease_seconds: float = Field(default=60, gt=0)
    webhook_allowed_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    """Private networks that webhooks may call all the same, as CIDR with commas between."""

    @field_validator("webhook_allowed_networks", mode="before")
    @classmethod
    def _networks_with_commas(cls, value: Any) -> Any:
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    idempotency_hours: float = Field(default=24, gt=0, allow_inf_nan=False)

    log_format: Annotated[LogFormat, BeforeValidator(_lower)] = "auto"
    """How API and workers log: `auto` is text on a terminal, and JSON lines elsewhere."""

    log_level: Annotated[LogLevel, BeforeValidator(_lower)] = "info"
    """What they leave out. Lines of other libraries are never written below `info`."""

    @model_validator(mode="after")
    def _places_inside_data_dir(self) -> StoreSettings:
        # Absolute, so that processes started in other folders mean the same place.
        self.data_dir = self.data_dir.expanduser().absolute()
        self.database_url = self.database_url or f"sqlite:///{self.data_dir / 'zsq.db'}"
        self.blobs_url = self.blobs_url or (self.data_dir / "blobs").as_uri()
        return self


@lru_cache
def store_settings() -> StoreSettings:
    """The settings of this process, read once."""
    return StoreSettings()
