"""The types of single options: each number's bounds stand in its type."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, Strict

CONFIG = ConfigDict(extra="forbid")

Start = Literal["fast", "nearest"]  # what student training starts from

Bits = Annotated[int, Strict(), Field(ge=2, le=8)]
BiasBits = Annotated[int, Strict(), Field(ge=8, le=32)]
# Learning rates, weights of loss terms: beyond these bounds they are slips, and float32 overflows.
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Count = Annotated[int, Strict(), Field(ge=1)]
Iterations = Annotated[int, Strict(), Field(ge=1, le=10_000_000)]
Seconds = Annotated[float, Field(gt=0, le=30 * 86_400, allow_inf_nan=False)]
Mean = Annotated[float, Field(ge=-1e4, le=1e4, allow_inf_nan=False)]
Std = Annotated[float, Field(ge=1e-6, le=1e4, allow_inf_nan=False)]
