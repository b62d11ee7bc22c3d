"""What a job may ask for: bits, method, export. One definition for the API, the database and core.

Frozen dataclasses that pydantic validates: unknown options are refused, integers are strict
(`true` is not 1), and each number's bounds stand in its type. Free of torch, so that the API may
import it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

_CONFIG = ConfigDict(extra="forbid")

Int = Annotated[int, Strict()]
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

# ASCII digits, and few: int() takes those of every script, and refuses thousands with words of its own.
_SHORTHAND = re.compile(r"[wW]([0-9]{1,4})[aA]([0-9]{1,4})")
_BITS_FORM = (
    'bits must look like "w4a8" (weight and activation bits, 2 to 8) or be an object '
    'like {"weight": 4, "activation": 8}'
)


# --- bits --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LayerBits:
    """Bits of the layers that one glob of `overrides` names; what is absent keeps its width."""

    __pydantic_config__ = _CONFIG

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

    __pydantic_config__ = _CONFIG

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


# --- methods -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a method trains: generator iterations, or seconds. Exactly one of the two."""

    __pydantic_config__ = _CONFIG

    iterations: Iterations | None = None
    seconds: Seconds | None = None

    def __post_init__(self) -> None:
        if (self.iterations is None) == (self.seconds is None):
            raise ValueError("budget takes exactly one of iterations and seconds")


@dataclass(frozen=True, slots=True)
class MinMaxConfig:
    """Round to nearest: weights by their minimum and maximum, activation ranges from synthetic images.

    The baseline that every method must beat. `images` synthetic images are distilled in `iterations`
    steps until their batch-normalization statistics match the network's (ZeroQ, arXiv 2001.00281,
    equation 3); networks without batch normalization get Gaussian images.
    """

    __pydantic_config__ = _CONFIG

    name: Literal["minmax"] = "minmax"
    images: Annotated[int, Strict(), Field(ge=1, le=4096)] = 64
    iterations: Annotated[int, Strict(), Field(ge=0, le=10_000)] = 100


@dataclass(frozen=True, slots=True)
class ZaqConfig:
    """Zero-shot adversarial quantization (ZAQ, arXiv 2103.15263).

    A generator searches for images on which teacher and student disagree; the student learns to
    agree on them. Options left out (null) take the preset's value, see `ZAQ_PRESETS`.
    """

    __pydantic_config__ = _CONFIG

    name: Literal["zaq"] = "zaq"
    preset: Literal["service", "paper"] = "service"
    budget: Budget | None = None
    discrepancy: Literal["scrm", "crm"] | None = None
    batch_size: Annotated[int, Strict(), Field(ge=2, le=4096)] | None = None
    student_steps: Annotated[int, Strict(), Field(ge=1, le=100)] | None = None
    latent_dim: Annotated[int, Strict(), Field(ge=1, le=4096)] | None = None
    student_lr: Positive | None = None
    generator_lr: Positive | None = None
    weight_decay: NonNegative | None = None
    alpha: NonNegative | None = None
    beta: NonNegative | None = None
    bn_weight: NonNegative | None = None
    warmup_iterations: Annotated[int, Strict(), Field(ge=0)] | None = None
    fold_bn: Annotated[bool, Strict()] | None = None
    ranges: Literal["learned", "calibrated", "widening"] | None = None
    range_lr: Positive | None = None
    schedule: Literal["cosine", "steps"] | None = None
    clip_norm: Positive | None = None

    def resolved(self) -> ZaqSettings:
        """Every absent option filled in from the preset."""
        chosen = {f.name: getattr(self, f.name) for f in fields(ZaqSettings)}
        given = {name: value for name, value in chosen.items() if value is not None}
        return ZaqSettings(**{**ZAQ_PRESETS[self.preset], **given})


@dataclass(frozen=True, slots=True)
class ZaqSettings:
    """What ZAQ runs with.

    L_Q = L1(logits) + alpha D;  L_G = -L1 - alpha D - beta mean|F| + bn_weight BNS  (core/methods/zaq.py).
    `warmup_iterations` of the generator alone on BNS come first. `ranges`: activation ranges that are
    calibrated on distilled images, calibrated and then learned at `range_lr`, or widening with every
    batch. `schedule`: learning rates fall as a cosine to zero, or tenfold after each third.
    `clip_norm` bounds the gradient's norm, of each player.
    """

    preset: str
    budget: Budget
    discrepancy: Literal["scrm", "crm"]
    batch_size: int
    student_steps: int
    latent_dim: int
    student_lr: float
    generator_lr: float
    weight_decay: float
    alpha: float
    beta: float
    bn_weight: float
    warmup_iterations: int
    fold_bn: bool
    ranges: Literal["learned", "calibrated", "widening"]
    range_lr: float
    schedule: Literal["cosine", "steps"]
    clip_norm: float | None


ZAQ_PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Stable and bounded; the values and the measurements behind them: docs/methods/zaq.md.
    "service": {
        "budget": Budget(iterations=60),
        "discrepancy": "crm",
        "batch_size": 64,
        "student_steps": 5,
        "latent_dim": 256,
        "student_lr": 1e-3,
        "generator_lr": 1e-3,
        "weight_decay": 0.0,
        "alpha": 0.1,
        "beta": 0.05,
        "bn_weight": 10.0,
        "warmup_iterations": 100,
        "fold_bn": True,
        "ranges": "learned",
        "range_lr": 1e-3,
        "schedule": "cosine",
        "clip_norm": 1.0,
    },
    # The authors' code (CIFAR): 300 epochs x 60 iterations, batch 256.
    "paper": {
        "budget": Budget(iterations=18_000),
        "discrepancy": "scrm",
        "batch_size": 256,
        "student_steps": 5,
        "latent_dim": 256,
        "student_lr": 0.1,
        "generator_lr": 1e-3,
        "weight_decay": 5e-4,
        "alpha": 1.0,
        "beta": 0.1,
        "bn_weight": 0.0,
        "warmup_iterations": 0,
        "fold_bn": False,
        "ranges": "widening",
        "range_lr": 1e-3,
        "schedule": "steps",
        "clip_norm": None,
    },
}

MethodConfig = MinMaxConfig | ZaqConfig
METHOD_CONFIGS: Mapping[str, type[MinMaxConfig] | type[ZaqConfig]] = {
    "minmax": MinMaxConfig,
    "zaq": ZaqConfig,
}


def _method_shorthand(value: Any) -> Any:
    """`"zaq"` -> `{"name": "zaq"}`; an unknown name is refused here, with the names there are."""
    name = value if isinstance(value, str) else value.get("name") if isinstance(value, Mapping) else None
    if isinstance(name, str) and name not in METHOD_CONFIGS:
        raise ValueError(f"unknown method {name[:100]!r}; there are: {', '.join(sorted(METHOD_CONFIGS))}")
    if isinstance(value, Mapping) and name is None:
        raise ValueError(f"method needs a name; there are: {', '.join(sorted(METHOD_CONFIGS))}")
    return {"name": value} if isinstance(value, str) else value


AnyMethod = Annotated[
    Annotated[MinMaxConfig | ZaqConfig, Field(discriminator="name")], BeforeValidator(_method_shorthand)
]


# --- export, limits, the whole ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GridStyle:
    """Which grids a profile's files can hold. The student is built on them.

    `symmetric_weights`: zero-point 0 at every width, not at 8 bits alone. `signed_activations`: int8
    with zero-point 0 instead of uint8 with any. `float_epilogues`: the addition or activation function
    that alone reads a layer's result gets it unrounded, since the layer's kernel goes on with it.
    """

    symmetric_weights: bool = False
    signed_activations: bool = False
    float_epilogues: bool = False


ANY_GRID = GridStyle()


@dataclass(frozen=True, slots=True)
class Profile:
    """For whom a file is written. `summary` is a line for people."""

    summary: str
    grids: GridStyle


PROFILES: Mapping[str, Profile] = {
    "packed": Profile(
        "stock ONNX Runtime on CPUs: weights take just their bits, integer kernels at every width",
        ANY_GRID,
    ),
    "portable": Profile(
        "OpenVINO and older ONNX Runtimes: int8 containers, opset 17",
        GridStyle(symmetric_weights=True),
    ),
    "tensorrt": Profile(
        "NVIDIA GPUs with TensorRT: int8 around zero, 8-bit activations only, opset 17",
        GridStyle(symmetric_weights=True, signed_activations=True, float_epilogues=True),
    ),
    "qdq": Profile(
        "compilers that take native INT2, INT4 and INT8 weights: plain QuantizeLinear and DequantizeLinear",
        GridStyle(symmetric_weights=True),
    ),
}


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """`profile`: for whom the file is written, see `PROFILES`."""

    __pydantic_config__ = _CONFIG

    profile: Literal["packed", "portable", "tensorrt", "qdq"] = "packed"

    @property
    def grids(self) -> GridStyle:
        return PROFILES[self.profile].grids


def _export_shorthand(value: Any) -> Any:
    return {"profile": value} if isinstance(value, str) else value


def _holds_the_bits(export: ExportConfig, info: ValidationInfo) -> ExportConfig:
    bits = info.data.get("bits")  # absent when it was refused itself
    if isinstance(bits, BitSpec) and export.grids.signed_activations:
        for where, width in bits.activations():
            if width < 8:
                raise PydanticCustomError(
                    "narrow_activations",
                    "the profile {profile} has 8-bit activations only, but {where} is {width}",
                    {"profile": export.profile, "where": where, "width": width},
                )
    return export


# Behind a field `bits`: together they may ask for what no file of the profile can hold.
AnyExport = Annotated[ExportConfig, BeforeValidator(_export_shorthand), AfterValidator(_holds_the_bits)]


@dataclass(frozen=True, slots=True)
class Limits:
    """`seconds`: the job fails with `deadline_exceeded` when it runs longer than this."""

    __pydantic_config__ = _CONFIG

    seconds: Seconds | None = None


@dataclass(frozen=True, slots=True)
class QuantizationSpec:
    """Everything about a job that changes its result."""

    __pydantic_config__ = _CONFIG

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


# --- networks ----------------------------------------------------------------------------------

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MAX_CLASSES, MAX_CLASS_NAME = 100_000, 255
ClassNames = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=MAX_CLASS_NAME)], ...],
    Field(min_length=1, max_length=MAX_CLASSES),
]


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Which network a checkpoint holds, and what images it expects.

    `architecture` is a name of the registry (`torchvision/resnet18`). Absent fields are found by
    inspection: `num_classes` from the last layer, `input_shape` (C, H, W) and the normalization
    (`mean`, `std`, of pixels scaled to [0, 1]) from the registry's defaults. `classes` are the names of
    the classes in the order of the logits; nothing is computed with them, they go into the file.
    """

    __pydantic_config__ = _CONFIG

    architecture: str
    num_classes: Annotated[int, Strict(), Field(ge=1, le=MAX_CLASSES)] | None = None
    input_shape: tuple[Count, Count, Count] | None = None
    mean: tuple[Mean, ...] | None = None
    std: tuple[Std, ...] | None = None
    classes: ClassNames | None = None

    def __post_init__(self) -> None:
        names = None if self.classes is None else len(self.classes)
        if None not in (names, self.num_classes) and names != self.num_classes:
            raise ValueError(f"classes has {names} names for {self.num_classes} classes")
        channels = self.input_shape[0] if self.input_shape else None
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and channels is not None and len(values) not in (1, channels):
                raise ValueError(f"{name} has {len(values)} values for {channels} channels")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NetworkSpec:
        return _NETWORK.validate_python(dict(data))

    def to_json(self) -> dict[str, Any]:
        return json.loads(_NETWORK.dump_json(self))  # type: ignore[no-any-return]


_SPEC = TypeAdapter(QuantizationSpec)
_NETWORK = TypeAdapter(NetworkSpec)
