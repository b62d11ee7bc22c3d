"""Options of `fast`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, Strict

from core.spec.fields import CONFIG


@dataclass(frozen=True, slots=True)
class FastConfig:
    """Ranges, weights and biases in one pass over a few synthetic images, nothing trained: seconds.

    Layer by layer, weights are rounded so that the layer's outputs change least (`gptq`, arXiv
    2210.17323), so that errors cancel without data (`squant`, arXiv 2202.07471), or to `nearest`.
    Absent, it is `squant` for networks with depthwise convolutions and `gptq` for others.
    `images` are distilled in `iterations` steps; absent, there are 32 in 25 steps up to 64 x 64
    pixels, and 16 in 20 steps above.
    """

    __pydantic_config__ = CONFIG

    name: Literal["fast"] = "fast"
    rounding: Literal["gptq", "squant", "nearest"] | None = None
    images: Annotated[int, Strict(), Field(ge=1, le=4096)] | None = None
    iterations: Annotated[int, Strict(), Field(ge=0, le=10_000)] | None = None

    def synthesis(self, pixels: int) -> tuple[int, int]:
        """(images, iterations) for inputs of that many pixels."""
        images, iterations = (32, 25) if pixels <= 64 * 64 else (16, 20)
        return (
            images if self.images is None else self.images,
            iterations if self.iterations is None else self.iterations,
        )
