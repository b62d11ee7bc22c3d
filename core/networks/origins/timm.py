"""The image classifiers of timm (https://github.com/huggingface/pytorch-image-models): `timm/<name>`.

Networks are built without weights and nothing is downloaded. timm publishes many sets of weights under
one name and tells them apart by a tag (`resnet50.a1_in1k`), which may follow the name here too: it decides
the defaults. Without it they are those of timm's first set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from core.errors import ArchitectureError
from core.networks.origins.base import ArchitectureDefaults, Shape, wrong_size

# They read patches of images of any shape, or are the eyes of a language model.
_OTHER_PURPOSES = {
    "naflexvit": "it reads patches and their coordinates, not images of one shape",
    "deepseek_vit": "it makes tokens for a language model",
    "gemma4_vit": "it makes tokens for a language model",
    "qwen3_vit": "it makes tokens for a language model",
}


def names() -> tuple[str, ...]:
    return tuple(timm.list_models())


def left_out(name: str) -> str | None:
    if name.endswith("_enc"):
        return "it is an encoder that cannot be given a classifier"
    return _OTHER_PURPOSES.get(family(name))


def defaults(name: str) -> ArchitectureDefaults:
    found = _description(name)
    channels, height, width = found.input_size
    return ArchitectureDefaults(
        (channels, height, width), tuple(found.mean), tuple(found.std), found.num_classes or None
    )


def family(name: str) -> str:
    return str(timm.models.model_entrypoint(name).__module__).rpartition(".")[2]


def build(name: str, num_classes: int, input_shape: Shape) -> nn.Module:
    channels, height, width = input_shape
    found = _description(name)
    options: dict[str, Any] = {}
    if found.fixed_input_size and (height, width) != tuple(found.input_size[1:]):
        options["img_size"] = (height, width)
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=num_classes, in_chans=channels, **options
        )
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        reason = f"cannot be built for images of {channels}x{height}x{width}: {error}"
        raise wrong_size(f"timm/{name}", reason) from error
    return network


def fill_buffers(network: nn.Module) -> None:
    for module in network.modules():
        for key, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, key, torch.empty_like(buffer, device="cpu"))
        compute: Callable[[], None] | None = getattr(module, "init_non_persistent_buffers", None)
        if compute is not None:
            compute()


def modernize(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(state)


def stem(name: str) -> str | None:
    found: Any = _description(name).first_conv
    # Several where branches read the image, none where nothing depends on its channels.
    first = found if isinstance(found, str) else next(iter(found or ()), None)
    return f"{first}.weight" if first else None


def image_size(
    name: str, state: Mapping[str, Tensor], expected: Mapping[str, torch.Size]
) -> tuple[int, int] | None:
    """Of a vision transformer: a square grid of patches behind as many other tokens as by default."""
    embedding, patches = state.get("pos_embed"), state.get("patch_embed.proj.weight")
    usual = expected.get("pos_embed")
    if embedding is None or patches is None or usual is None:
        return None
    if embedding.shape == usual or embedding.ndim != 3 or patches.ndim != 4 or len(usual) != 3:
        return None
    _, height, width = _description(name).input_size
    size = patches.shape[-1]
    others = usual[1] - (height // size) * (width // size)
    side = math.isqrt(max(embedding.shape[1] - others, 0))
    return (side * size, side * size) if side and side * side + others == embedding.shape[1] else None


def tags(name: str) -> tuple[str, ...]:
    """Of the sets of weights that timm publishes under this name, its first set's first."""
    tagged = timm.models.get_arch_pretrained_cfgs(name)
    return tuple(tag for _, _, tag in (each.partition(".") for each in tagged) if tag)


def _description(name: str) -> PretrainedCfg:
    try:
        found = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        raise ArchitectureError(
            f"The worker's timm, {timm.__version__}, does not have {name}: it is not the version that the "
            "catalogue was made from.",
            field="architecture",
        ) from error
    assert found is not None
    return found
