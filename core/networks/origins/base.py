"""What the registry asks of a library of networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from core.errors import ArchitectureError

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class ArchitectureDefaults:
    """What a network of this architecture expects unless the user says otherwise.

    `input_shape` is (C, H, W); `mean` and `std` normalize pixels scaled to [0, 1]. `num_classes` is
    None for networks that are published without a classifier.
    """

    input_shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int | None


class Origin(Protocol):
    """A module of this package. `name` is the architecture's without the origin: `resnet18`."""

    def names(self) -> tuple[str, ...]:
        """Every architecture of the library, in the order of the list that users see."""

    def left_out(self, name: str) -> str | None:
        """Why this one is not offered, apart from its size; None when it is."""

    def defaults(self, name: str) -> ArchitectureDefaults: ...

    def family(self, name: str) -> str: ...

    def tags(self, name: str) -> tuple[str, ...]:
        """What may follow the name and a dot, to say which published weights' defaults are meant."""

    def build(self, name: str, num_classes: int, input_shape: Shape) -> nn.Module:
        """The network with random weights. Raises ArchitectureError (`invalid_input_shape`)."""

    def fill_buffers(self, network: nn.Module) -> None:
        """Computes the buffers that no checkpoint holds and that a skeleton has no memory for."""

    def modernize(self, name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The checkpoint under today's names: old spellings renamed, training-only weights dropped."""

    def stem(self, name: str) -> str | None:
        """The weight whose second dimension grows with the image's channels; None where they are fixed."""

    def image_size(
        self, name: str, state: Mapping[str, Tensor], expected: Mapping[str, torch.Size]
    ) -> tuple[int, int] | None:
        """Height and width that the checkpoint's position embedding was made for; None: the default's.

        `expected` are the shapes of the network's parameters at its default size.
        """


def wrong_size(name: str, reason: str) -> ArchitectureError:
    return ArchitectureError(f"{name} {reason}", code="invalid_input_shape", field="input_shape")
