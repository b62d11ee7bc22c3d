"""The registry: every architecture that a checkpoint may name, how to build it, what it expects.

An allow-list. Names are `torchvision/<name>` for every classification network of torchvision and
`cifar/resnet<depth>`. Run as a program, it writes the torch-free catalogue that the API serves:

    python -m core.networks.architectures
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torchvision.models
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core.errors import ArchitectureError
from core.networks import catalogue
from core.networks.cifar_resnet import DEPTHS, CifarResNet

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class ArchitectureDefaults:
    """What a network of this architecture expects unless the user says otherwise.

    `input_shape` is (C, H, W); `mean` and `std` normalize pixels scaled to [0, 1].
    """

    input_shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int


_CIFAR = ArchitectureDefaults((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 10)

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


@cache
def names() -> tuple[str, ...]:
    """Every architecture there is, sorted by family."""
    cifar = tuple(f"cifar/resnet{depth}" for depth in DEPTHS)
    return cifar + tuple(f"torchvision/{name}" for name in torchvision.models.list_models(torchvision.models))


@cache
def defaults(name: str) -> ArchitectureDefaults:
    """Expected input and classes of the architecture. Raises ArchitectureError for unknown names."""
    origin, short = _split(name)
    if origin == "cifar":
        return _CIFAR
    # Only the description of the default weights is read; nothing is downloaded.
    weights = torchvision.models.get_model_weights(short).DEFAULT
    preset = weights.transforms()
    side = preset.crop_size[0]
    mean, std = tuple(preset.mean), tuple(preset.std)
    if short in _INCEPTION_LIKE:
        mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return ArchitectureDefaults((3, side, side), mean, std, len(weights.meta["categories"]))


def family(name: str) -> str:
    """Which kind of network it is: `resnet`, `vision_transformer`, …; `cifar_resnet`."""
    origin, short = _split(name)
    if origin == "cifar":
        return "cifar_resnet"
    return str(torchvision.models.get_model_builder(short).__module__).rpartition(".")[2]


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
    classes = num_classes or known.num_classes
    channels, height, width = input_shape or (in_channels, *known.input_shape[1:])
    if origin == "cifar":
        return CifarResNet(int(short.removeprefix("resnet")), classes, channels).eval()
    if channels != 3:
        raise ArchitectureError(
            f"{name} takes images of 3 channels, not {channels}. "
            "Only the cifar/* networks can be built for other numbers of channels.",
            code="invalid_input_shape",
            field="input_shape",
        )
    options: dict[str, Any] = {"num_classes": classes}
    if short in _INCEPTION_LIKE:
        # Their truncated-normal initialization takes a minute on a CPU.
        options |= {"aux_logits": False, "init_weights": False, "transform_input": False}
    if short.startswith("vit_"):
        if height != width:
            raise _wrong_size(name, f"takes square images, not {height}x{width}")
        options["image_size"] = height
    if short.startswith("maxvit"):
        options["input_size"] = (height, width)
    try:
        network: nn.Module = torchvision.models.get_model(short, weights=None, **options)
    except (ValueError, AssertionError) as error:
        raise _wrong_size(name, f"cannot be built for images of {height}x{width}: {error}") from error
    return network.eval()


def skeleton(
    name: str, num_classes: int | None = None, in_channels: int = 3, input_shape: Shape | None = None
) -> nn.Module:
    """Like `build`, with parameters that have shapes but no memory: milliseconds for any size."""
    with _without_memory():
        return build(name, num_classes, in_channels, input_shape)


# A number of classes that no other dimension of any network has.
MARKED_CLASSES = 10_007


@cache
def head_keys(name: str) -> tuple[str, ...]:
    """Names of the parameters whose first dimension is the number of classes (the last layer's)."""
    state = skeleton(name, MARKED_CLASSES).state_dict()
    return tuple(key for key, value in state.items() if MARKED_CLASSES in value.shape[:1])


def stem_key(name: str) -> str:
    """Name of the first convolution's weight [O, C, kH, kW]: its C is the image's channels."""
    network = skeleton(name)
    return next(f"{key}.weight" for key, module in network.named_modules() if isinstance(module, nn.Conv2d))


def modernize(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint under today's names: old spellings renamed, training-only weights dropped."""
    short = name.rpartition("/")[2]
    dropped = _TRAINING_ONLY.get(short, ())
    renamed = {key: value for key, value in state.items() if not key.startswith(dropped or "\0")}
    for prefix, (pattern, replacement) in _RENAMED.items():
        if short.startswith(prefix):
            renamed = {pattern.sub(replacement, key): value for key, value in renamed.items()}
    return renamed


def position_side(name: str, state: Mapping[str, Tensor]) -> int | None:
    """Side in pixels of the images that a vision transformer's position embedding was made for."""
    embedding, patches = state.get("encoder.pos_embedding"), state.get("conv_proj.weight")
    if not name.startswith("torchvision/vit_") or embedding is None or patches is None:
        return None
    if embedding.ndim != 3 or patches.ndim != 4:
        return None
    side = round(max(embedding.shape[1] - 1, 0) ** 0.5)
    return side * patches.shape[-1] if side and side * side == embedding.shape[1] - 1 else None


def _split(name: str) -> tuple[str, str]:
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ArchitectureError(
            f"Unknown architecture {name!r}.{hint} GET /v1/architectures lists all of them.",
            field="architecture",
        )
    origin, _, short = name.partition("/")
    return origin, short


def _wrong_size(name: str, reason: str) -> ArchitectureError:
    return ArchitectureError(f"{name} {reason}", code="invalid_input_shape", field="input_shape")


class _MetaParameters(TorchFunctionMode):
    """Puts on the meta device what modules allocate for parameters, and nothing else.

    torch.device("meta") would also move the small tables that some networks compute while they are
    built (RegNet its widths, Swin its index tables), whose values are needed.
    """

    _ALLOCATORS = (torch.empty, torch.zeros, torch.ones)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in self._ALLOCATORS and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@contextmanager
def _without_memory() -> Iterator[None]:
    with _MetaParameters(), torch.no_grad():
        yield


def catalogue_entries() -> list[dict[str, Any]]:
    """What `catalogue.json` must hold."""
    entries = []
    for name in names():
        known = defaults(name)
        entries.append(
            {
                "name": name,
                "family": family(name),
                "parameters": sum(p.numel() for p in skeleton(name).parameters()),
                "input_shape": list(known.input_shape),
                "mean": list(known.mean),
                "std": list(known.std),
                "num_classes": known.num_classes,
            }
        )
    return entries


def main() -> None:
    lines = ",\n".join(json.dumps(entry) for entry in catalogue_entries())
    catalogue.PATH.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
