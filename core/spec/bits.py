"""How many bits which tensor gets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, TypeAdapter

from core.spec.fields import CONFIG, BiasBits, Bits

# ASCII digits, and few: int() takes those of every script, and refuses thousands with words of its own.
_SHORTHAND = re.compile(r"[wW]([0-9]{1,4})[aA]([0-9]{1,4})")
_BITS_FORM = (
    'bits must look like "w4a8" (weight and activation bits, 2 to 8) or be an object '
    'like {"weight": 4, "activation": 8}'
)


@dataclass(frozen=True, slots=True)
class LayerBits:
    """Bits of the layers that one glob of `overrides` names; what is absent keeps its width."""

    __pydantic_config__ = CONFIG

    weight: Bits | None = None
    activation: Bits | None = None


@dataclass(frozen=True, slots=True)
class BitSpec:
    """Widths in bits, 2 to 8.

    "wXaY" means: every convolution and linear weight at X bits, every tensor that they read at Y
    bits, except the network's input image and the input of the last linear layer, which stay at 8
    as in the literature's uniform setting. `first_last` sets the first and the last layer's
    weights. `overrides` maps globs over layer names (`"layer3.*"`) to widths; where several match,
    the last one given wins. `residual` is the width at which additions read a tensor that a
    convolution reads too: 8, or `"shared"` for the convolution's own grid. `bias` is the width of
    biases: 32 is the integer kernels' own accumulator grid.
    """

    __pydantic_config__ = CONFIG

    weight: Bits
    activation: Bits
    bias: BiasBits = 32
    first_last: Bits | None = None
    residual: Literal[8, "shared"] = 8
    overrides: Mapping[str, LayerBits] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> BitSpec:
        """`"w4a8"` -> 4-bit weights, 8-bit activations. Raises ValueError."""
        return TypeAdapter(AnyBits).validate_python(text)

    def activations(self) -> Iterator[tuple[str, int]]:
        """Every activation width that is asked for, with the field that asks."""
        yield "bits.activation", self.activation
        for pattern, layer in self.overrides.items():
            if layer.activation is not None:
                yield f"bits.overrides.{pattern}.activation", layer.activation

    def for_layer(self, name: str) -> LayerBits:
        """The override that holds for the layer `name`; empty where none matches."""
        found = LayerBits()
        for pattern, bits in self.overrides.items():
            if fnmatchcase(name, pattern):
                found = LayerBits(bits.weight or found.weight, bits.activation or found.activation)
        return found


def _bits_shorthand(value: Any) -> Any:
    if isinstance(value, str):
        match = _SHORTHAND.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{_BITS_FORM}, not {value[:40]!r}")
        return {"weight": int(match[1]), "activation": int(match[2])}
    if not isinstance(value, Mapping | BitSpec):
        raise ValueError(_BITS_FORM)
    return value


AnyBits = Annotated[BitSpec, BeforeValidator(_bits_shorthand)]
