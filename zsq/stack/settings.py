"""Where the stack lives: `ZSQ_PORT`, `ZSQ_DATA_DIR`, `ZSQ_BROKER_URL`, from the environment or `.env`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class StackSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ZSQ_", env_file=".env", extra="ignore")

    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """The API's port on 127.0.0.1; 0 takes a free one."""

    data_dir: Path = Path(".zsq")
    """Database, files, broker data and logs."""

    device: str = "auto"
    """What GPU the jobs are computed on; `cpu` for none."""

    broker_url: str | None = None
    """A broker to use instead of starting one."""

    log_format: str = "auto"
    """How the parts log, into files that people read: `auto` is text here."""
