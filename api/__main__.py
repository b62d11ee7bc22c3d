"""`python -m api`: serves on `ZSQ_HOST` and `ZSQ_PORT`."""

from __future__ import annotations

import sys

import uvicorn
from pydantic import ValidationError

from api.app import create_app
from api.settings import ApiSettings

# The longest request line with all headers, and how long a connection may idle between two calls.
HEADER_BYTES = 32 << 10
IDLE_SECONDS = 15


def main() -> None:
    try:
        settings = ApiSettings()
    except ValidationError as error:
        sys.exit("\n".join(f"ZSQ settings: {each['msg']}" for each in error.errors()))
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=IDLE_SECONDS,
        server_header=False,
    )


if __name__ == "__main__":
    main()
