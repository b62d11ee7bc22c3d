"""Options of `minmax`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, Strict

from core.spec.fields import CONFIG


@dataclass(frozen=True, slots=True)
class MinMaxConfig:
    """Round to nearest: weights by their minimum and maximum, activation ranges from synthetic images.

    The baseline that every method must beat. `images` synthetic images are distilled in `iterations`
    steps until their batch-normalization statistics match the network's (ZeroQ, arXiv 2001.00281,
    equation 3); networks without batch normalization get Gaussian images.
    """

    __pydantic_config__ = CONFIG

    name: Literal["minmax"] = "minmax"
    images: Annotated[int, Strict(), Field(ge=1, le=4096)] = 64
    iterations: Annotated[int, Strict(), Field(ge=0, le=10_000)] = 100
