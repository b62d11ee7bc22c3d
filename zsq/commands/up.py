"""`zsq up`: the whole stack on this machine, until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def up(
    port: Annotated[
        int | None, typer.Option(help="Else ZSQ_PORT, else 8000; 0 takes a free one.", min=0, max=65535)
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Else ZSQ_DATA_DIR, else ./.zsq.", file_okay=False)
    ] = None,
) -> None:
    """Start everything on this machine: API, broker, workers, database. Ctrl-C stops it all."""
    # Only this command and `demo` start processes; the others stay quick to start.
    from zsq.stack import up as run

    run(port, data_dir)
