"""A training's state as a file, and whose state it is.

Tensors, numbers, strings and containers of these, by torch.save. The process that wrote the file had read
strangers' bytes; it is read back as a stranger's file is, by opcodes first and then by
torch.load(weights_only=True), and used by a run of the same identity alone.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.fake_quant.insert import Student
from core.networks import archive
from core.networks.load import read_safely
from core.version import __version__

FORMAT = 1  # to be raised when what a state holds, or means, changes

Identity = dict[str, Any]

_FOREIGN: Mapping[str, str] = {
    "format": "of another version of this service",
    "version": "of another version of this service",
    "method": "of another method",
    "settings": "of a run with other settings",
    "seed": "of a run with another seed",
    "bits": "of a run with other bits",
    "network": "of another network",
}


class Foreign(ValueError):
    """The state is not this run's; says whose."""


class TooLarge(ValueError):
    """The state is larger than what is read back; says by how much."""


def identity(settings: object, student: Student, seed: int) -> Identity:
    """What two runs must have in common for one to go on from the other's state."""
    tensors = [*student.named_parameters(), *student.named_buffers()]
    return {
        "format": FORMAT,
        "version": __version__,
        "method": type(settings).__name__,
        "settings": repr(settings),
        "seed": seed,
        "bits": repr((student.bits, student.grids)),
        "network": {name: list(tensor.shape) for name, tensor in tensors},
    }


def write(folder: Path, of: Identity, state: Mapping[str, Any]) -> Path:
    """A new file in `folder`, there whole or not at all. Raises TooLarge, OSError and RuntimeError."""
    _check_size(sum(dict(_storages(state)).values()))
    path = folder / f"training-{uuid.uuid4().hex}.pt"
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as stream:
            torch.save({"identity": of, "state": dict(state)}, stream)
        _check_size(partial.stat().st_size)  # all else that is in it, too
        return partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path, of: Identity) -> dict[str, Any]:
    """The state on the CPU. Raises Foreign, and errors of any kind on a file that is not one."""
    found = read_safely(path)
    whose = found["identity"]
    for key, reason in _FOREIGN.items():
        if whose.get(key) != of[key]:
            raise Foreign(f"it is {reason}")
    state: dict[str, Any] = found["state"]
    return state


def _check_size(size: int) -> None:
    if size > archive.MAX_TOTAL_BYTES:
        raise TooLarge(f"it has {size:,} bytes; at most {archive.MAX_TOTAL_BYTES:,} are read back")


def _storages(value: Any) -> Iterator[tuple[int, int]]:
    """(Address, bytes) of the memory behind each tensor: tensors that share it are saved with one copy."""
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        yield storage.data_ptr(), storage.nbytes()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _storages(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _storages(item)
