"""Which network a checkpoint holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, Strict, TypeAdapter

from core.spec.fields import CONFIG, Count, Mean, Std

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

    __pydantic_config__ = CONFIG

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


_NETWORK = TypeAdapter(NetworkSpec)
