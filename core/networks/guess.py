"""Which architecture a checkpoint really holds, when it is not the one that it was said to be."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from core.networks import architectures, catalogue

_SECONDS = 2.0
_SHOWN = 3
_STATISTICS = (catalogue.COUNTER, ".running_mean", ".running_var")


def guess_architectures(state: Mapping[str, Tensor], said: str) -> list[str]:
    """The registry's architectures with exactly these names and shapes, at most three: the one that was
    said, then the likeliest.

    The last layer's width, the image's channels and size, and the counters of batch normalization may
    differ. The catalogue knows which architectures have these names; only those are built, those of
    nearly the same size first and of the smaller libraries before timm. After two seconds it stops,
    since this only makes an error message better.
    """
    deadline = time.monotonic() + _SECONDS
    found: list[str] = []
    for name in _likeliest_first(_candidates(state), state, said):
        if len(found) == _SHOWN or time.monotonic() > deadline:
            break
        if _fits(name, architectures.modernize(name, state)):
            found.append(name)
    return found


def _candidates(state: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    plain, found = catalogue.fingerprint(state), []
    for entry in catalogue.load():
        name: str = entry["name"]
        if name.startswith("torchvision/"):  # the one library whose files may have old names
            renamed = architectures.modernize(name, state)
            keys = plain if renamed.keys() == state.keys() else catalogue.fingerprint(renamed)
        else:
            keys = plain
        if keys == entry["keys"]:
            found.append(entry)
    return found


def _likeliest_first(candidates: list[dict[str, Any]], state: Mapping[str, Tensor], said: str) -> list[str]:
    """By how much the number of parameters differs, as if the last layer had the candidate's own classes."""
    if not candidates:
        return []
    heads = architectures.head_keys(candidates[0]["name"])  # the same names in all of them, or nearly
    last = [state[key] for key in heads if key in state and state[key].ndim]
    body = sum(v.numel() for k, v in state.items() if k not in heads and not k.endswith(_STATISTICS))
    a_class = sum(value[0].numel() for value in last if len(value))

    def order(entry: dict[str, Any]) -> tuple[bool, int, bool]:
        name: str = entry["name"]
        expected = body + (entry["num_classes"] or 0) * a_class
        return name != said, abs(entry["parameters"] - expected), name.startswith("timm/")

    return [entry["name"] for entry in sorted(candidates, key=order)]


def _fits(name: str, state: Mapping[str, Tensor]) -> bool:
    expected, stem = architectures.shapes(name), architectures.stem_key(name)
    return all(
        _same(expected[key], value.shape, is_stem=key == stem)
        for key, value in state.items()
        if key in expected
    )


def _same(expected: tuple[int, ...], found: tuple[int, ...], *, is_stem: bool) -> bool:
    if expected == found:
        return True
    if len(expected) != len(found):
        return False
    last_layer = architectures.MARKED_CLASSES in expected[:1] and expected[1:] == found[1:]
    first_layer = is_stem and expected[:1] + expected[2:] == found[:1] + found[2:]
    position_embedding = len(expected) == 3 and expected[::2] == found[::2]
    return last_layer or first_layer or position_embedding
