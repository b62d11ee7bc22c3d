"""Short names. In a file of small layers, names repeated in every node outweigh what the nodes do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from itertools import count, product
from string import ascii_letters

import onnx


def shorten(graph: onnx.GraphProto, keep: AbstractSet[str]) -> dict[str, str]:
    """Renames, in place, every tensor but those in `keep`; returns the new name of each.

    The most frequent get the shortest names; equal ones in order of appearance, so that the same
    graph always gets the same names.
    """
    uses = Counter(name for node in graph.node for name in (*node.input, *node.output) if name)
    uses.update(tensor.name for tensor in graph.initializer)
    names = (name for name in _short_names() if name not in keep)
    renamed = {name: name if name in keep else next(names) for name, _ in uses.most_common()}
    renamed[""] = ""  # an optional input that is left out
    for node in graph.node:
        node.input[:] = [renamed[name] for name in node.input]
        node.output[:] = [renamed[name] for name in node.output]
    for tensor in graph.initializer:
        tensor.name = renamed[tensor.name]
    return renamed


def _short_names() -> Iterator[str]:
    """a, b … Z, aa, ab …"""
    for length in count(1):
        for letters in product(ascii_letters, repeat=length):
            yield "".join(letters)
