"""The registry: every architecture that a checkpoint may name, how to build it, what it expects.

An allow-list, kept as data in `catalogue.json`. Names are `<origin>/<name>`; the origins are the modules
of core.networks.origins. Run as a program, it writes the catalogue anew:

    python -m core.networks.architectures
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ArchitectureError
from core.networks import catalogue
from core.networks.meta import without_memory
from core.networks.origins import cifar, torchvision
from core.networks.origins.base import ArchitectureDefaults, Origin, Shape

__all__ = ["ArchitectureDefaults", "Shape"]

ORIGINS = ("cifar", "torchvision", "timm")

# The float32 ONNX file, which results are compared with, must stay below protobuf's 2 GiB.
MAX_PARAMETERS = 500_000_000

# A number of classes that no other dimension of any network has.
MARKED_CLASSES = 10_007


@cache
def names() -> tuple[str, ...]:
    """Every architecture there is, in the catalogue's order."""
    return tuple(entry["name"] for entry in catalogue.load())


@cache
def defaults(name: str) -> ArchitectureDefaults:
    """Expected input and classes of the architecture. Raises ArchitectureError for unknown names."""
    origin, short = _split(name)
    return origin.defaults(short)


def family(name: str) -> str:
    """Which kind of network it is: `resnet`, `vision_transformer`, …; `cifar_resnet`."""
    origin, short = _split(name)
    return origin.family(short)


def build(
    name: str,
    num_classes: int | None = None,
    in_channels: int = 3,
    input_shape: Shape | None = None,
) -> nn.Module:
    """The network with random weights, float32, in evaluation mode.

    `input_shape` (C, H, W) matters to the few whose weights depend on the image size (vision
    transformers, MaxViT); it wins over `in_channels`. Raises ArchitectureError.
    """
    origin, short = _split(name)
    known = defaults(name)
    classes = num_classes or known.num_classes or 0
    return origin.build(short, classes, input_shape or (in_channels, *known.input_shape[1:])).eval()


def skeleton(
    name: str, num_classes: int | None = None, in_channels: int = 3, input_shape: Shape | None = None
) -> nn.Module:
    """Like `build`, with parameters that have shapes but no memory: milliseconds for any size."""
    with without_memory():
        return build(name, num_classes, in_channels, input_shape)


def fill_buffers(name: str, network: nn.Module) -> None:
    """Computes what a skeleton lacks and no checkpoint holds (indices, frequencies), in place."""
    origin, _ = _split(name)
    origin.fill_buffers(network)


@cache
def shapes(name: str) -> Mapping[str, torch.Size]:
    """Of everything in a checkpoint of this architecture, its default input, MARKED_CLASSES classes."""
    return {key: value.shape for key, value in skeleton(name, MARKED_CLASSES).state_dict().items()}


def head_keys(name: str) -> tuple[str, ...]:
    """Names of the parameters whose first dimension is the number of classes (the last layer's)."""
    return tuple(key for key, shape in shapes(name).items() if MARKED_CLASSES in shape[:1])


def stem_key(name: str) -> str | None:
    """The weight whose second dimension grows with the image's channels; None where they are fixed."""
    origin, short = _split(name)
    return origin.stem(short)


def channels(name: str, state: Mapping[str, Tensor]) -> int | None:
    """Of the images that the checkpoint's first layer takes; None where it does not say."""
    key = stem_key(name)
    if key is None or key not in state or key not in shapes(name):
        return None
    expected, found = shapes(name)[key], state[key].shape
    if len(found) != len(expected) or len(found) < 2:
        return None
    # A stem may read several pixels as channels of one.
    count, rest = divmod(found[1] * defaults(name).input_shape[0], expected[1])
    return count if count and not rest else None


def modernize(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint under today's names: old spellings renamed, training-only weights dropped."""
    origin, short = _split(name)
    return origin.modernize(short, state)


def image_size(name: str, state: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Height and width of the images that a vision transformer's position embedding was made for."""
    origin, short = _split(name)
    return origin.image_size(short, state, shapes(name))


def _split(name: str) -> tuple[Origin, str]:
    if not catalogue.knows(name):
        raise ArchitectureError(
            f"Unknown architecture {name!r}. {catalogue.advice(name)}", field="architecture"
        )
    origin, _, short = name.partition("/")
    return _origin(origin), short


def _origin(name: str) -> Origin:
    if name == "cifar":
        return cifar
    if name == "torchvision":
        return torchvision
    from core.networks.origins import timm  # takes half a second, which other networks need not wait for

    return timm


# --- the catalogue --------------------------------------------------------------------------------


def candidates(origin: str) -> tuple[str, ...]:
    """Every name that the origin's library has, offered or left out."""
    return tuple(f"{origin}/{short}" for short in _origin(origin).names())


def describe(name: str) -> dict[str, Any]:
    """The catalogue's entry for a candidate."""
    origin_name, _, short = name.partition("/")
    origin = _origin(origin_name)
    known = origin.defaults(short)
    with without_memory():
        network = origin.build(short, MARKED_CLASSES, known.input_shape)
    return {
        "name": name,
        "family": origin.family(short),
        "parameters": sum(_size(parameter.shape, known.num_classes) for parameter in network.parameters()),
        "input_shape": list(known.input_shape),
        "mean": list(known.mean),
        "std": list(known.std),
        "num_classes": known.num_classes,
        "tags": list(origin.tags(short)),
        "keys": catalogue.fingerprint(network.state_dict()),
    }


def _size(shape: torch.Size, classes: int | None) -> int:
    return prod(shape[1:]) * (classes or 0) if MARKED_CLASSES in shape[:1] else prod(shape)


def main() -> None:
    entries: list[str] = []
    left_out: dict[str, str] = {}
    for name in (name for origin in ORIGINS for name in candidates(origin)):
        origin, _, short = name.partition("/")
        reason = _origin(origin).left_out(short)
        if reason is None:
            entry = describe(name)
            if entry["parameters"] > MAX_PARAMETERS:
                count = entry["parameters"]
                reason = f"it has {count:,} parameters; at most {MAX_PARAMETERS:,} can be exported"
        if reason is None:
            entries.append(json.dumps(entry))
        else:
            left_out[name] = reason
    file = ",\n".join(entries)
    catalogue.PATH.write_text(
        f'{{"architectures": [\n{file}\n],\n"left_out": {json.dumps(left_out, indent=0)}}}\n'
    )


if __name__ == "__main__":
    main()
