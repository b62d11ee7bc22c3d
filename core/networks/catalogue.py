"""The registry as data, readable without torch: what `/v1/architectures` serves and uploads may name.

`catalogue.json` is written by `python -m core.networks.architectures`; a test keeps it current.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("catalogue.json")

# Counted while training; old checkpoints lack it.
COUNTER = ".num_batches_tracked"


@cache
def load() -> list[dict[str, Any]]:
    """One dict an architecture: name, family, parameters, input_shape [C, H, W], mean, std, num_classes,
    tags, and keys, the fingerprint of its checkpoints."""
    return _file()["architectures"]  # type: ignore[no-any-return]


@cache
def names() -> frozenset[str]:
    return frozenset(entry["name"] for entry in load())


@cache
def left_out() -> dict[str, str]:
    """What the libraries have but the registry has not, and why."""
    return _file()["left_out"]  # type: ignore[no-any-return]


@cache
def _tagged() -> frozenset[str]:
    return frozenset(f"{entry['name']}.{tag}" for entry in load() for tag in entry["tags"])


@cache
def _file() -> dict[str, Any]:
    return json.loads(PATH.read_text())  # type: ignore[no-any-return]


def knows(name: str) -> bool:
    """Whether `name`, with or without a tag, is an architecture that a checkpoint may name."""
    return name in names() or name in _tagged()


def advice(name: str) -> str:
    """What to say of a name that is not known: why it is left out, or what it may have meant."""
    if name in left_out():
        return f"It is left out: {left_out()[name]}."
    near = [known for known in (f"{origin}/{name}" for origin in ("torchvision", "timm")) if knows(known)]
    base = name.partition(".")[0]
    if not near and base in names():
        near = [f"{base}.{tag}" for tag in _entry(base)["tags"][:3]] or [base]
    near = near or difflib.get_close_matches(name[:100], _sorted_names(), n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else "GET /v1/architectures lists all of them."


def _entry(name: str) -> dict[str, Any]:
    return next(entry for entry in load() if entry["name"] == name)


@cache
def _sorted_names() -> list[str]:
    return sorted(names())


def fingerprint(keys: Iterable[str]) -> str:
    """Of a checkpoint's names, batch counters apart: networks with equal ones differ in shapes alone."""
    text = "\n".join(sorted(key for key in keys if not key.endswith(COUNTER)))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
