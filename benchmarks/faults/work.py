"""Networks, images and jobs whose phases last as long as a fault needs to hit them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.callers import Caller
from faults.process import wait_for

SHORT = {"name": "minmax", "images": 1, "iterations": 1}
SMALL_FIELDS = {"architecture": "cifar/resnet8", "input_shape": "1,8,8", "mean": "0.5", "std": "0.25"}
LARGE_FIELDS = {
    "architecture": "torchvision/resnet18",
    "input_shape": "3,32,32",
    "mean": "0.5,0.5,0.5",
    "std": "0.25,0.25,0.25",
}
CLASSES = 10


def training(seconds: float | None = None, *, iterations: int | None = None) -> dict[str, Any]:
    """The whole of its budget, however little it learns from noise."""
    budget = {"seconds": seconds} if iterations is None else {"iterations": iterations}
    small = {"batch_size": 8, "student_steps": 1, "latent_dim": 8}
    return {"name": "zaq", "budget": budget, "patience": 10**6, **small}


def synthesizing(iterations: int) -> dict[str, Any]:
    return {"name": "fast", "images": 32, "iterations": iterations}


def write_network(path: Path, fields: dict[str, str], seed: int) -> Path:
    """A network of random weights; each seed gives another file."""
    import torch

    from core.networks.architectures import build

    torch.manual_seed(seed)
    channels = int(fields["input_shape"].partition(",")[0])
    options: dict[str, Any] = {} if channels == 3 else {"in_channels": channels}
    torch.save(build(fields["architecture"], num_classes=CLASSES, **options).state_dict(), path)
    return path


def write_images(path: Path, count: int) -> Path:
    """Labelled noise, for the small network."""
    import numpy as np

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    np.savez(path, x=pixels, y=rng.integers(0, CLASSES, count))
    return path


@dataclass(frozen=True, slots=True)
class Inputs:
    """Uploaded once, inspected, and used by every job of a cluster. Without `large`, all jobs are small."""

    folder: Path
    small: str
    large: str | None
    images: str
    seeds: Iterator[int]

    @classmethod
    def upload(cls, caller: Caller, folder: Path, *, images: int = 6000, large: bool = True) -> Inputs:
        folder.mkdir(parents=True, exist_ok=True)
        small = write_network(folder / "small.pt", SMALL_FIELDS, 0)
        labelled = write_images(folder / "images.npz", images)
        found = cls(
            folder,
            caller.upload(small, SMALL_FIELDS),
            caller.upload(write_network(folder / "large.pt", LARGE_FIELDS, 0), LARGE_FIELDS)
            if large
            else None,
            caller.upload(labelled, {}, "datasets"),
            itertools.count(1),
        )
        for kind, id in (
            ("checkpoints", found.small),
            ("checkpoints", found.large),
            ("datasets", found.images),
        ):
            if id is not None:
                wait_for(lambda: _ready(caller, kind, id), 300, f"{id} is ready")  # noqa: B023
        return found

    def job(self, method: dict[str, Any], checkpoint: str | None = None, **more: Any) -> dict[str, Any]:
        """A request that no earlier one equals."""
        seed = next(self.seeds)
        return {
            "checkpoint_id": checkpoint or self.small,
            "bits": "w4a4",
            "method": method,
            "seed": seed,
            **more,
        }


def _ready(caller: Caller, kind: str, id: str) -> bool:
    state = caller.call("GET", f"/v1/{kind}/{id}").json()["state"]
    assert state != "rejected", id
    return bool(state == "ready")
