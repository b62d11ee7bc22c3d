"""Images that start with the spectrum of natural ones."""

from __future__ import annotations

import pytest
import torch

from core.synthesis.frame import LARGEST
from core.synthesis.spectrum import Spectrum


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(16, 3, 32, 32), (8, 1, 15, 20), (4, 3, 1, 1)])
def test_images_have_the_shape_and_unit_variance(shape: tuple[int, ...]) -> None:
    images = Spectrum(noise(*shape))().detach()
    assert images.shape == shape and images.isfinite().all()
    assert images.std(correction=0) == pytest.approx(0.93, abs=0.03)  # 1 but for the bound


def test_their_power_falls_as_the_square_of_the_frequency() -> None:
    power = torch.fft.rfft2(Spectrum(noise(400, 1, 32, 32))().detach()).abs().square().mean((0, 1))
    for low, high in ((2, 4), (3, 6), (4, 8)):
        assert power[low, 0] / power[high, 0] == pytest.approx(4, rel=0.3)


def test_no_pixel_leaves_the_bound_however_large_the_coefficients() -> None:
    canvas = Spectrum(noise(2, 3, 8, 8))
    small = canvas().detach()
    with torch.no_grad():
        canvas.z.mul_(50)
    assert 2.9 < canvas().abs().max() <= LARGEST
    assert torch.equal(canvas().sign(), small.sign())


def test_every_coefficient_can_be_learned() -> None:
    canvas = Spectrum(noise(2, 3, 8, 8))
    target = noise(2, 3, 8, 8).flip(0).clamp(-2.5, 2.5)
    optimizer = torch.optim.Adam(canvas.parameters(), lr=0.05)
    for _ in range(400):
        loss = (canvas() - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1e-3
