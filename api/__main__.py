"""`python -m api`: serves on `ZSQ_HOST` and `ZSQ_PORT`."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from pydantic import ValidationError

from api.app import create_app
from api.settings import ApiSettings
from store import logging

# The longest request line with all headers, and how long a connection may idle between two calls.
HEADER_BYTES = 32 << 10
IDLE_SECONDS = 15


def protocol() -> dict[str, Any]:
    """What uvicorn is told of HTTP itself."""
    return {
        "http": "h11",  # the one whose headers have a limit that can be set
        "h11_max_incomplete_event_size": HEADER_BYTES,
        "timeout_keep_alive": IDLE_SECONDS,
        "server_header": False,
    }


def main() -> None:
    try:
        settings = ApiSettings()
    except ValidationError as error:
        sys.exit("\n".join(f"ZSQ settings: {each['msg']}" for each in error.errors()))
    logging.configure(settings.log_format, settings.log_level)
    # Its lines go where ours go, and `api.observe` writes one for each request.
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        **protocol(),
    )


if __name__ == "__main__":
    main()
