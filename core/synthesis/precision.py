"""bfloat16 for what makes synthetic images, on CPUs that multiply it natively.

An image may be any that serves. Distilled in bfloat16 it ends at the same distance from the statistics,
measured in float32; drawn from a generator, it moves by less than rounding its pixels to 8 bits would
move it. What a student computes is float32. The measurements: docs/decisions/0014-cheaper-steps.md.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

import torch
from torch import nn

from core.networks.layers import has_depthwise


def reduced_precision(network: nn.Module, device: torch.device) -> AbstractContextManager[object]:
    """Convolutions and linear layers of `network` inside run in bfloat16, where that is faster.

    Depthwise ones are slower in it, and the casts around them cost more than the others gain. Not for a
    network that is trained: oneDNN's threads wait for each other by spinning over the gradient of its
    weights. On other devices nothing changes: there it has not been measured.
    """
    faster = device.type == "cpu" and _native_bfloat16() and not has_depthwise(network)
    return torch.autocast(device.type, torch.bfloat16, enabled=faster)


@cache
def _native_bfloat16() -> bool:
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
