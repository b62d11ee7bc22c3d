from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Literature(BaseModel):
    title: str
    arxiv: str
    url: str


class MethodOut(BaseModel):
    """`options` is the JSON Schema of the object that a job's `method` takes."""

    name: str
    summary: str
    options: dict[str, Any]
    presets: dict[str, dict[str, Any]]
    default_preset: str | None
    literature: list[Literature]


class ArchitectureOut(BaseModel):
    """`input_shape` is [C, H, W]; `mean` and `std` are of pixels scaled to [0, 1]; all are defaults.

    `num_classes` is null for networks that are published without a classifier. A tag may follow the
    name and a dot, and brings the defaults of the weights that the library publishes under it.
    """

    name: str
    family: str
    parameters: int
    input_shape: list[int]
    mean: list[float]
    std: list[float]
    num_classes: int | None
    tags: list[str]
