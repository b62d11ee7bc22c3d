"""The attention is the published formula without its pixel-by-pixel map, and its gradients stay finite."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.methods.discrepancy import EPS, crm, scrm


def naive_scrm(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """The formula as the authors' code has it, maps and all."""

    def attended(x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.normalize(x, dim=1, eps=EPS).flatten(2)
        pixels = torch.softmax(x.transpose(1, 2) @ x, dim=-1)
        spatial = 0.1 * (x @ pixels.transpose(1, 2)) + x
        energy = x @ x.transpose(1, 2)
        channels = torch.softmax(energy.max(-1, keepdim=True)[0].expand_as(energy) - energy, dim=-1)
        return spatial, 0.1 * (channels @ x) + x

    total = torch.zeros(())
    for t, s in zip(teacher, student, strict=True):
        for a, b in zip(attended(t), attended(s), strict=True):
            total = total + (a - b).abs().mean()
    return total


def features(seed: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = [(3, 4, 6, 5), (3, 7, 3, 3), (2, 5, 1, 4)]
    return [torch.randn(shape, generator=random).relu().requires_grad_() for shape in shapes]


def test_scrm_equals_the_naive_formula_with_gradients_to_both_sides() -> None:
    teacher, student = features(0), features(1)
    ours, naive = scrm(teacher, student), naive_scrm(teacher, student)
    torch.testing.assert_close(ours, naive)
    inputs = teacher + student
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(naive, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_crm_compares_channel_cosines_with_a_weight_for_each_layer() -> None:
    teacher, student = features(0), features(1)

    def cosines(x: Tensor) -> Tensor:
        return F.cosine_similarity(x.flatten(2).unsqueeze(1), x.flatten(2).unsqueeze(2), dim=-1, eps=EPS)

    expected = [(cosines(t) - cosines(s)).abs().mean() for t, s in zip(teacher, student, strict=True)]
    torch.testing.assert_close(crm(teacher, student), torch.stack(expected).sum())
    torch.testing.assert_close(crm(teacher, student, [0.0, 2.0, 0.0]), 2 * expected[1])


@pytest.mark.parametrize("measure", [scrm, crm])
def test_equal_features_have_no_discrepancy(measure: object) -> None:
    assert callable(measure)
    assert measure(features(0), features(0)).item() < 1e-6


@pytest.mark.parametrize("measure", [scrm, crm])
def test_an_all_zero_map_keeps_gradients_bounded(measure: object) -> None:
    assert callable(measure)
    teacher = features(0)
    student = [torch.zeros_like(t, requires_grad=True) for t in teacher]
    for grad in torch.autograd.grad(measure(teacher, student), student):
        # Each pixel's slope is at most about 1 / EPS, shared by the mean over all elements.
        assert grad.isfinite().all() and grad.abs().max() < 10 / EPS


_PEAK = """
import resource, torch
from core.methods.discrepancy import spatial_attention
x = torch.randn(16, 16, 1024, requires_grad=True)
spatial_attention(x[:1]).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
spatial_attention(x).sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_the_pixel_map_is_never_held() -> None:
    """One map of 16 images at 32 x 32 is 64 MiB; forward and backward of the naive form hold several."""
    result = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 32 * 1024, "kibibytes above the peak of a single image"
