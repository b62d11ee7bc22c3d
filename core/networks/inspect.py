"""Fits a checkpoint into the architecture that it is said to be, and says what was found.

What does not fit is named: which keys, which shapes, what to do, and, where the weights fit another
architecture of the registry, which one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ArchitectureError, CheckpointError
from core.networks import architectures
from core.networks.architectures import ArchitectureDefaults, Shape
from core.networks.catalogue import COUNTER
from core.networks.guess import guess_architectures
from core.networks.load import load_state_dict
from core.spec import NetworkSpec

MAX_SIDE = 1024  # pixels; the largest default is 600
MAX_CHANNELS = 64
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class LoadedNetwork:
    """A teacher: float32, frozen, in evaluation mode, on the CPU, with what it expects of its images.

    `input_shape` is (C, H, W); `mean` and `std` have C values, for pixels scaled to [0, 1].
    `inspection` is the JSON shown to the user.
    """

    network: nn.Module
    input_shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int
    inspection: dict[str, Any]


def load_network(path: Path, spec: NetworkSpec) -> LoadedNetwork:
    """Loads and checks the checkpoint at `path`. Raises CheckpointError and ArchitectureError."""
    name = spec.architecture
    known = architectures.defaults(name)
    state = architectures.modernize(name, load_state_dict(path))
    input_shape = _input_shape(spec, known, state)
    num_classes = _num_classes(spec, known, state)
    network = architectures.skeleton(name, num_classes, input_shape=input_shape)
    state = _without_computed(network, state)
    _check_match(name, network.state_dict(), state, has_classes=spec.num_classes is not None)
    _check_types(network.state_dict(), state)
    _check_statistics(state)
    _check_names(spec, num_classes)
    _assign(network, state)
    architectures.fill_buffers(name, network)
    _check_forward(network, input_shape, num_classes)
    mean = _per_channel("mean", spec.mean, known.mean, input_shape[0])
    std = _per_channel("std", spec.std, known.std, input_shape[0])
    inspection = _describe(network, input_shape, num_classes, mean, std)
    return LoadedNetwork(network, input_shape, mean, std, num_classes, inspection)


def _input_shape(spec: NetworkSpec, known: ArchitectureDefaults, state: Mapping[str, Tensor]) -> Shape:
    if spec.input_shape is not None:
        channels, height, width = spec.input_shape
        if max(height, width) > MAX_SIDE or channels > MAX_CHANNELS:
            raise ArchitectureError(
                f"input_shape {channels},{height},{width} is too large: at most {MAX_CHANNELS} channels and "
                f"{MAX_SIDE}x{MAX_SIDE} pixels.",
                code="invalid_input_shape",
                field="input_shape",
            )
        return channels, height, width
    channels, *size = known.input_shape
    found = architectures.image_size(spec.architecture, state)
    height, width = found if found is not None and max(found) <= MAX_SIDE else size
    return architectures.channels(spec.architecture, state) or channels, height, width


def _num_classes(spec: NetworkSpec, known: ArchitectureDefaults, state: Mapping[str, Tensor]) -> int:
    found = {
        state[key].shape[0]
        for key in architectures.head_keys(spec.architecture)
        if key in state and state[key].ndim
    }
    if len(found) == 1 and spec.num_classes is None:
        return max(1, found.pop())
    classes = spec.num_classes or known.num_classes
    if classes is None:
        heads = architectures.head_keys(spec.architecture)
        raise CheckpointError(
            f"The checkpoint has no classifier ({_shown(list(heads))}), and {spec.architecture} is published "
            "without one. Upload the network with the classifier that it was fine-tuned with.",
            code="missing_keys",
            field="file",
        )
    return classes


def _without_computed(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint without the tables that the network computes itself; older files hold some."""
    expected = network.state_dict()
    computed = {key for key, _ in network.named_buffers()} - expected.keys()
    return {key: value for key, value in state.items() if key not in computed}


def _check_names(spec: NetworkSpec, num_classes: int) -> None:
    if spec.classes is not None and len(spec.classes) != num_classes:
        raise ArchitectureError(
            f"classes names {len(spec.classes)} classes, but the network has {num_classes}. Give one name "
            "for each, in the order of the network's outputs, or leave classes out.",
            code="invalid_classes",
            field="classes",
        )


def _check_match(
    name: str, expected: Mapping[str, Tensor], state: Mapping[str, Tensor], *, has_classes: bool
) -> None:
    missing = [key for key in expected if key not in state and not key.endswith(COUNTER)]
    unexpected = [key for key in state if key not in expected]
    shapes = [key for key in expected if key in state and expected[key].shape != state[key].shape]
    if not missing and not unexpected and not shapes:
        return

    heads = architectures.head_keys(name)
    if shapes and has_classes and not missing and not unexpected and set(shapes) <= set(heads):
        key = shapes[0]
        raise CheckpointError(
            f"The last layer of the checkpoint has {state[key].shape[0]} outputs ({key}), but num_classes "
            f"says {expected[key].shape[0]}. Correct num_classes or leave it out.",
            code="shape_mismatch",
            field="num_classes",
        )
    found: list[str] = []
    if missing:
        found.append(f"{_count(missing, 'key')} of {name} missing: {_shown(missing)}")
    if unexpected:
        found.append(f"{_count(unexpected, 'key')} unknown to it: {_shown(unexpected)}")
    if shapes:
        pairs = [f"{key} is {_shape(state[key])}, should be {_shape(expected[key])}" for key in shapes]
        found.append(f"{_count(shapes, 'shape')} different: {_shown(pairs)}")
    code = "missing_keys" if missing else "unexpected_keys" if unexpected else "shape_mismatch"
    raise CheckpointError(
        f"The checkpoint does not fit {name}. {'; '.join(found)}. {_advice(name, state)}",
        code=code,
        field="architecture",
    )


def _advice(name: str, state: Mapping[str, Tensor]) -> str:
    said = name.partition(".")[0]
    fitting = guess_architectures(state, said)
    if said in fitting:
        return "The weights fit this architecture with another num_classes or input_shape: leave those out."
    if len(fitting) == 1:
        return f"The weights fit {fitting[0]}: upload them with architecture={fitting[0]}."
    if fitting:
        return (
            f"The weights fit {' and '.join(fitting)} alike, which need not compute the same: upload them "
            f"with the one that they were trained as, for example architecture={fitting[0]}."
        )
    return (
        "Check the architecture, and that the file is the plain state dict of that very network "
        "(GET /v1/architectures lists what can be named)."
    )


def _check_types(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Integers in the place of weights are another quantizer's: without its scales they mean nothing."""
    bad = [k for k, v in state.items() if expected[k].is_floating_point() and not v.is_floating_point()]
    if bad:
        raise CheckpointError(
            f"Integers or booleans instead of weights in {_shown(bad)}. "
            "Upload the network in floating point, as it was before anything quantized it.",
            code="unsupported_dtype",
            field="file",
        )


def _check_statistics(state: Mapping[str, Tensor]) -> None:
    bad = [key for key, value in state.items() if key.endswith(".running_var") and bool((value < 0).any())]
    if bad:
        raise CheckpointError(
            f"Negative variances in {_shown(bad)}. "
            "The file is damaged or holds something else under these names.",
            code="non_finite_weights",
            field="file",
        )


def _assign(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Hands the checkpoint's own tensors to the network: no second copy is ever made."""
    complete = dict(state)
    for key, value in network.state_dict().items():
        if key not in complete:
            complete[key] = torch.zeros((), dtype=torch.int64)  # an absent num_batches_tracked
        else:
            # Indices and counters keep the type that the network's own code expects.
            complete[key] = complete[key].to(value.dtype)
    network.load_state_dict(complete, assign=True)
    network.requires_grad_(False)


@torch.no_grad()
def _check_forward(network: nn.Module, input_shape: Shape, num_classes: int) -> None:
    """One image of noise through the network: does its shape fit, and are the logits numbers?"""
    generator = torch.Generator().manual_seed(0)
    noise_NCHW = torch.randn(1, *input_shape, generator=generator)
    try:
        logits_NK = network(noise_NCHW)
    except (RuntimeError, AssertionError, ValueError, IndexError, ZeroDivisionError) as reason:
        text = str(reason).splitlines()[0][:200] if str(reason) else type(reason).__name__
        raise ArchitectureError(
            f"The network cannot take images of input_shape {_commas(input_shape)} ({text}). "
            "Give the input_shape (channels, height, width) that it was trained with.",
            code="invalid_input_shape",
            field="input_shape",
        ) from reason
    if not isinstance(logits_NK, Tensor) or tuple(logits_NK.shape) != (1, num_classes):
        found = tuple(logits_NK.shape) if isinstance(logits_NK, Tensor) else type(logits_NK).__name__
        raise ArchitectureError(
            f"The network answers one image with {found}, not with {num_classes} logits.",
            code="invalid_input_shape",
            field="input_shape",
        )
    if not bool(torch.isfinite(logits_NK).all()):
        raise CheckpointError(
            "The weights are finite but the network's logits are not: values grow past float32 on the way. "
            "Use a checkpoint of a run that converged.",
            code="non_finite_weights",
            field="file",
        )


def _per_channel(
    field: str, given: tuple[float, ...] | None, known: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    if given is None:
        # Nothing is known of images with other channels than the registry's: centered and scaled.
        return known if len(known) == channels else (0.5,) * channels
    if len(given) not in (1, channels):
        raise ArchitectureError(
            f"{field} has {len(given)} values for images of {channels} channels; "
            "give one value, or one a channel.",
            code="invalid_input_shape",
            field=field,
        )
    return given if len(given) == channels else given * channels


def _describe(
    network: nn.Module, input_shape: Shape, num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Any]:
    layers = [
        n for n, module in network.named_modules() if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    ]
    parameters = sum(p.numel() for p in network.parameters())
    buffers = sum(b.numel() for b in network.buffers() if b.is_floating_point())
    return {
        "parameters": parameters,
        "layers": len(layers),
        "layer_names": layers,
        "input_shape": list(input_shape),
        "num_classes": num_classes,
        "float32_bytes": 4 * (parameters + buffers),
        "mean": list(mean),
        "std": list(std),
    }


def _count(items: list[str], noun: str) -> str:
    return f"{len(items)} {noun}{'s' if len(items) != 1 else ''}"


def _shown(items: list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", …" if len(items) > _SHOWN else "")


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a single number"


def _commas(shape: Shape) -> str:
    return ",".join(map(str, shape))
