"""Another process draws the numbers that come next."""

from __future__ import annotations

import random

import torch

from core.methods.random_state import random_state, set_random_state

CPU = torch.device("cpu")


def draw() -> tuple[float, float, float]:
    return random.random(), random.gauss(), float(torch.rand(()))


def test_numbers_go_on_where_they_stood() -> None:
    random.seed(3)
    torch.manual_seed(3)
    draw()
    state = random_state(CPU)
    wanted = draw(), draw()
    random.seed(4)
    torch.manual_seed(4)
    assert (draw(), draw()) != wanted
    set_random_state(state, CPU)
    assert (draw(), draw()) == wanted
