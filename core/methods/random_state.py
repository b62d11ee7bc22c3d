"""Where a run's random numbers stand, so that another process draws those that come next."""

from __future__ import annotations

import random
from typing import Any

import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """Of Python's generator and of torch's, on the CPU and on the accelerator in use."""
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """On another kind of device than before, the accelerator's numbers begin where they are."""
    version, numbers, spare = state["python"]
    random.setstate((version, tuple(numbers), spare))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
