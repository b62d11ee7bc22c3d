"""The registry as data, readable without torch: what `/v1/architectures` serves.

`catalogue.json` is written by `python -m core.networks.architectures`; a test keeps it current.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("catalogue.json")


@cache
def load() -> list[dict[str, Any]]:
    """One dict an architecture: name, family, parameters, input_shape [C, H, W], mean, std, num_classes."""
    return json.loads(PATH.read_text())  # type: ignore[no-any-return]


@cache
def names() -> frozenset[str]:
    return frozenset(entry["name"] for entry in load())
