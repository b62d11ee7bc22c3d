"""`python -m api`: serves on `ZSQ_HOST` and `ZSQ_PORT`."""

from __future__ import annotations

import uvicorn

from api.app import create_app
from api.settings import ApiSettings
from store import logging


def main() -> None:
    settings = ApiSettings()
    logging.configure(settings.log_format, settings.log_level)
    # Its lines go where ours go, and `api.observe` writes one for each request.
    uvicorn.run(
        create_app(settings), host=settings.host, port=settings.port, log_config=None, access_log=False
    )


if __name__ == "__main__":
    main()
