"""Every classification network of torchvision: `torchvision/<name>`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torchvision.models
from torch import Tensor, nn

from core.networks.origins.base import ArchitectureDefaults, Shape, wrong_size

# The official files of these two were trained on pixels normalized to [-1, 1]; torchvision keeps
# ImageNet's mean and std at the door and undoes them inside (`transform_input`). Without that detour
# the same function has mean = std = 0.5.
_INCEPTION_LIKE = ("googlenet", "inception_v3")

# Auxiliary classifiers serve training alone; they are not built, and their weights are dropped.
_TRAINING_ONLY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}

# torchvision's own published files carry names from before its modules were renamed.
_RENAMED: Mapping[str, tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = {
    "densenet": (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"), r"\1\2"),
    "vit": (re.compile(r"\.mlp\.linear_([12])\."), lambda m: f".mlp.{3 * (int(m[1]) - 1)}."),
}


def names() -> tuple[str, ...]:
    return tuple(torchvision.models.list_models(torchvision.models))


def left_out(name: str) -> str | None:
    return None


def defaults(name: str) -> ArchitectureDefaults:
    # Only the description of the default weights is read; nothing is downloaded.
    weights = torchvision.models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    side = preset.crop_size[0]
    mean, std = tuple(preset.mean), tuple(preset.std)
    if name in _INCEPTION_LIKE:
        mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return ArchitectureDefaults((3, side, side), mean, std, len(weights.meta["categories"]))


def family(name: str) -> str:
    return str(torchvision.models.get_model_builder(name).__module__).rpartition(".")[2]


def tags(name: str) -> tuple[str, ...]:
    return ()


def build(name: str, num_classes: int, input_shape: Shape) -> nn.Module:
    channels, height, width = input_shape
    if channels != 3:
        raise wrong_size(
            f"torchvision/{name}",
            f"takes images of 3 channels, not {channels}; cifar/* and timm/* can be built for others",
        )
    options: dict[str, Any] = {"num_classes": num_classes}
    if name in _INCEPTION_LIKE:
        # Their truncated-normal initialization takes a minute on a CPU.
        options |= {"aux_logits": False, "init_weights": False, "transform_input": False}
    if name.startswith("vit_"):
        if height != width:
            raise wrong_size(f"torchvision/{name}", f"takes square images, not {height}x{width}")
        options["image_size"] = height
    if name.startswith("maxvit"):
        options["input_size"] = (height, width)
    try:
        network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    except (ValueError, AssertionError) as error:
        reason = f"cannot be built for images of {height}x{width}: {error}"
        raise wrong_size(f"torchvision/{name}", reason) from error
    return network


def fill_buffers(network: nn.Module) -> None:
    """Every buffer stands in the checkpoint."""


def modernize(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    dropped = _TRAINING_ONLY.get(name, ())
    renamed = {key: value for key, value in state.items() if not key.startswith(dropped or "\0")}
    for prefix, (pattern, replacement) in _RENAMED.items():
        if name.startswith(prefix):
            renamed = {pattern.sub(replacement, key): value for key, value in renamed.items()}
    return renamed


def stem(name: str) -> str | None:
    return None


def image_size(
    name: str, state: Mapping[str, Tensor], expected: Mapping[str, torch.Size]
) -> tuple[int, int] | None:
    """Of a vision transformer: a square grid of patches and one class token."""
    embedding, patches = state.get("encoder.pos_embedding"), state.get("conv_proj.weight")
    if not name.startswith("vit_") or embedding is None or patches is None:
        return None
    if embedding.ndim != 3 or patches.ndim != 4:
        return None
    side = round(max(embedding.shape[1] - 1, 0) ** 0.5)
    if not side or side * side != embedding.shape[1] - 1:
        return None
    return side * patches.shape[-1], side * patches.shape[-1]
