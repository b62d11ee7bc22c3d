"""What the server's parts are given when the client starts them as processes."""

from __future__ import annotations

import os
from pathlib import Path

import zsq


def own_environment() -> dict[str, str]:
    """This process's own, where `python -m store` is our package and no other that lies in this folder."""
    root = str(Path(zsq.__file__).resolve().parents[1])
    paths = filter(None, [root, os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
