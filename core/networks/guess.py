"""Which architecture a checkpoint really holds, when it is not the one that it was said to be."""

from __future__ import annotations

import time
from collections.abc import Mapping

from torch import Tensor

from core.networks import architectures, catalogue

_SECONDS = 2.0
_SIZE_RATIO = 5  # how far another last layer can change the number of parameters
_COUNTER = ".num_batches_tracked"
_STATISTICS = (_COUNTER, ".running_mean", ".running_var")


def guess_architecture(state: Mapping[str, Tensor]) -> str | None:
    """The registry's architecture with exactly these names and shapes, or None.

    The last layer's width, the image's channels and the counters of batch normalization may differ.
    Those of nearly the same size are tried first; after two seconds it gives up, since this only
    makes an error message better.
    """
    deadline = time.monotonic() + _SECONDS
    size = sum(value.numel() for key, value in state.items() if not key.endswith(_STATISTICS))
    near = [e for e in catalogue.load() if size < _SIZE_RATIO * e["parameters"] < size * _SIZE_RATIO**2]
    for entry in sorted(near, key=lambda entry: abs(entry["parameters"] - size)):
        if time.monotonic() > deadline:
            return None
        name: str = entry["name"]
        if _fits(name, architectures.modernize(name, state)):
            return name
    return None


def _fits(name: str, state: Mapping[str, Tensor]) -> bool:
    expected = architectures.skeleton(name, architectures.MARKED_CLASSES).state_dict()
    if _weights(expected) != _weights(state):
        return False
    return all(_same(expected[key], value, name) for key, value in state.items() if key in expected)


def _same(expected: Tensor, value: Tensor, name: str) -> bool:
    if expected.shape == value.shape:
        return True
    if expected.ndim != value.ndim:
        return False
    last_layer = architectures.MARKED_CLASSES in expected.shape[:1] and expected.shape[1:] == value.shape[1:]
    # Only the first convolution of a CIFAR network has three input channels.
    first_layer = name.startswith("cifar/") and expected.ndim == 4 and expected.shape[1] == 3
    position_embedding = expected.ndim == 3 and expected.shape[::2] == value.shape[::2]
    return last_layer or first_layer or position_embedding


def _weights(state: Mapping[str, Tensor]) -> set[str]:
    return {key for key in state if not key.endswith(_COUNTER)}
