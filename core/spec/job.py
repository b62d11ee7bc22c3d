"""Everything about a job that changes its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, Strict, TypeAdapter

from core.spec.bits import AnyBits
from core.spec.export import AnyExport, ExportConfig
from core.spec.fields import CONFIG, Seconds
from core.spec.methods import AnyMethod
from core.spec.zaq import ZaqConfig


@dataclass(frozen=True, slots=True)
class Limits:
    """`seconds`: the job fails with `deadline_exceeded` when it runs longer than this."""

    __pydantic_config__ = CONFIG

    seconds: Seconds | None = None


@dataclass(frozen=True, slots=True)
class QuantizationSpec:
    """Everything about a job that changes its result."""

    __pydantic_config__ = CONFIG

    bits: AnyBits
    method: AnyMethod = field(default_factory=ZaqConfig)
    export: AnyExport = field(default_factory=ExportConfig)
    seed: Annotated[int, Strict(), Field(ge=0, le=2**31 - 1)] = 0
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> QuantizationSpec:
        """Reads what `to_json` wrote, or what a user sent. Raises pydantic.ValidationError."""
        return _SPEC.validate_python(dict(data))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, shorthands expanded."""
        return json.loads(_SPEC.dump_json(self))  # type: ignore[no-any-return]


_SPEC = TypeAdapter(QuantizationSpec)
