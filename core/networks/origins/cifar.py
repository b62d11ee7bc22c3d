"""ResNets for 32 x 32 images: `cifar/resnet<depth>`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.networks.cifar_resnet import DEPTHS, CifarResNet
from core.networks.origins.base import ArchitectureDefaults, Shape

_DEFAULTS = ArchitectureDefaults((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 10)


def names() -> tuple[str, ...]:
    return tuple(f"resnet{depth}" for depth in DEPTHS)


def left_out(name: str) -> str | None:
    return None


def defaults(name: str) -> ArchitectureDefaults:
    return _DEFAULTS


def family(name: str) -> str:
    return "cifar_resnet"


def tags(name: str) -> tuple[str, ...]:
    return ()


def build(name: str, num_classes: int, input_shape: Shape) -> nn.Module:
    return CifarResNet(int(name.removeprefix("resnet")), num_classes, input_shape[0])


def fill_buffers(network: nn.Module) -> None:
    """Every buffer stands in the checkpoint."""


def modernize(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(state)


def stem(name: str) -> str | None:
    return "conv1.weight"


def image_size(
    name: str, state: Mapping[str, Tensor], expected: Mapping[str, torch.Size]
) -> tuple[int, int] | None:
    return None
