"""Options of `zeroq`, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from core.spec.fields import CONFIG
from core.spec.presets import resolve


@dataclass(frozen=True, slots=True)
class ZeroqConfig:
    """Distilled images for the activation ranges, nothing trained (ZeroQ, arXiv 2001.00281).

    Images are optimized until the network's batch normalization recognizes their statistics; the
    activation ranges are found on them. Options left out (null) take the preset's value, see
    `ZEROQ_PRESETS`.
    """

    __pydantic_config__ = CONFIG

    name: Literal["zeroq"] = "zeroq"
    preset: Literal["service", "paper"] = "service"
    images: Annotated[int, Strict(), Field(ge=1, le=4096)] | None = None
    batch_size: Annotated[int, Strict(), Field(ge=1, le=4096)] | None = None
    iterations: Annotated[int, Strict(), Field(ge=0, le=10_000)] | None = None
    distillation: Literal["spectrum", "batch", "original"] | None = None
    ranges: Literal["outputs", "error", "minmax"] | None = None

    def resolved(self) -> ZeroqSettings:
        """Every absent option filled in from the preset."""
        return resolve(self, ZeroqSettings, ZEROQ_PRESETS)


@dataclass(frozen=True, slots=True)
class ZeroqSettings:
    """What ZeroQ runs with.

    `images` are distilled in batches of `batch_size`, `iterations` steps each. `distillation`: `original`
    matches the statistics of every image on its own, as the authors' code does with its own start and
    schedule; `batch` those of the whole batch, `spectrum` the same with bounded images whose variables are
    Fourier coefficients (`core.synthesis`). `ranges`: the minimum and
    maximum of the activations (`minmax`), the range in which they are rounded with least `error`, or that
    with which the `outputs` of the layers behind them have least, with biases corrected for the weights'
    rounding (`core.methods.layerwise`).
    """

    preset: str
    images: int
    batch_size: int
    iterations: int
    distillation: Literal["spectrum", "batch", "original"]
    ranges: Literal["outputs", "error", "minmax"]


ZEROQ_PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Measured: docs/methods/zeroq.md.
    "service": {
        "images": 64,
        "batch_size": 64,
        "iterations": 50,
        "distillation": "spectrum",
        "ranges": "outputs",
    },
    # The authors' code: one batch, 500 steps.
    "paper": {
        "images": 64,
        "batch_size": 64,
        "iterations": 500,
        "distillation": "original",
        "ranges": "minmax",
    },
}
