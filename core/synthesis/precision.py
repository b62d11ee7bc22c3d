"""bfloat16 for what synthesizes images, on CPUs that multiply it natively.

Images may be any that serve; losses of the student are computed on the images as they came out, in
float32. Distilled images end at the same distance from the statistics, measured in float32; a generator's
image moves by less than the rounding of its pixels to 8 bits would move it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

import torch


def reduced_precision(device: torch.device) -> AbstractContextManager[object]:
    """Convolutions and linear layers inside run in bfloat16 where that is faster; else nothing changes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cpu" and _native_bfloat16())


@cache
def _native_bfloat16() -> bool:
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
