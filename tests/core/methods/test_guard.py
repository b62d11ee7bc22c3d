"""Divergence is noticed, undone and slowed down, and in the end given up."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from core.errors import Diverged
from core.methods.guard import EXPLODED, KEEP_EVERY, RETREATS, Guard


@pytest.mark.parametrize("bad", [math.nan, math.inf, EXPLODED * 1.01])
def test_it_goes_back_to_the_last_good_state_and_halves_the_rate(bad: float) -> None:
    layer = nn.Linear(2, 2)
    notes: list[str] = []
    restored: list[bool] = []
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9)
    guard = Guard([layer, optimizer], "student", notes, lambda: restored.append(True))
    for iteration in range(1, KEEP_EVERY + 1):
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        assert guard.accepts(iteration, {"student": 1.0})
    good = [p.detach().clone() for p in layer.parameters()]
    momentum = [optimizer.state[p]["momentum_buffer"].clone() for p in layer.parameters()]
    optimizer.step()
    nn.init.constant_(layer.weight, math.nan)
    assert not guard.accepts(KEEP_EVERY + 1, {"student": bad})
    assert all(torch.equal(p, g) for p, g in zip(layer.parameters(), good, strict=True))
    found = [optimizer.state[p]["momentum_buffer"] for p in layer.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(found, momentum, strict=True))
    assert guard.rate == 0.5 and restored == [True] and len(notes) == 1


def test_it_gives_up() -> None:
    guard = Guard([], "student", [], lambda: None)
    for iteration in range(RETREATS):
        assert not guard.accepts(iteration + 1, {"student": math.nan})
    with pytest.raises(Diverged):
        guard.accepts(RETREATS + 1, {"student": math.nan})


def test_losses_that_are_not_watched_may_grow() -> None:
    guard = Guard([], "student", [], lambda: None)
    assert guard.accepts(1, {"student": 1.0, "generator": -1.0})
    assert guard.accepts(2, {"student": 1.0, "generator": -1e6})


def test_rounding_noise_of_a_loss_near_zero_is_no_explosion() -> None:
    """KL in float32 of networks that agree: some 1e-6, of either sign."""
    guard = Guard([], "student", [], lambda: None)
    for iteration, loss in enumerate([4e-7, -1.5e-6, 4e-6, 3e-4, 9e-3]):
        assert guard.accepts(iteration + 1, {"student": loss})
    assert not guard.accepts(6, {"student": 1.0})
