"""`python -m api`: serves on `ZSQ_HOST` and `ZSQ_PORT`."""

from __future__ import annotations

import uvicorn

from api.app import create_app
from api.settings import ApiSettings


def main() -> None:
    settings = ApiSettings()
    uvicorn.run(create_app(settings), host=settings.host, port=settings.port)


if __name__ == "__main__":
    main()
