"""The class decides what is made, in the network's normalized space, for images of any size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.synthesis.conditional import (
    ClassNoise,
    ConditionalBatchNorm2d,
    ConditionalGenerator,
    Kind,
    ProductGenerator,
    build,
)

KINDS: list[Kind] = ["product", "conditional"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 33, 19), (3, 130, 96)])
def test_images_have_the_asked_shape_and_are_normalized(shape: tuple[int, int, int], kind: Kind) -> None:
    generator = build(shape, classes=5, latent_dim=16, kind=kind)
    images = generator(torch.randn(4, 16), torch.tensor([0, 4, 2, 2]))
    assert images.shape == (4, *shape)
    if shape[1] == shape[2] == 32:  # nothing is cropped
        torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
        torch.testing.assert_close(images.std((0, 2, 3)), torch.ones(3), atol=2e-2, rtol=0)


def test_small_images_take_the_product_and_large_ones_conditional_normalization() -> None:
    assert isinstance(build((3, 64, 64), 10, 8), ProductGenerator)
    assert isinstance(build((3, 96, 96), 10, 8), ConditionalGenerator)


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_changes_the_image_and_learns(kind: Kind) -> None:
    """Two classes are told to be bright and dark: only what a class alone can reach tells them apart."""
    torch.manual_seed(0)
    generator = build((1, 8, 8), classes=2, latent_dim=8, kind=kind)
    optimizer = torch.optim.Adam(generator.parameters(), lr=1e-2)
    noise = ClassNoise(8, 2, torch.device("cpu"), torch.Generator().manual_seed(0))
    for _ in range(40):
        z_ND, y_N = noise(16)
        brightness = generator(z_ND, y_N).mean((1, 2, 3))
        loss = (brightness - (2.0 * y_N - 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z_ND = noise.latents(16)
    with torch.no_grad():
        means = generator(z_ND, torch.arange(16) % 2).mean((1, 2, 3))
    assert means[1::2].mean() - means[::2].mean() > 1


def test_at_first_a_conditional_normalization_is_a_plain_one() -> None:
    layer, plain = ConditionalBatchNorm2d(4, classes=3, eps=0.1), nn.BatchNorm2d(4, 0.1, affine=False)
    x = torch.randn(5, 4, 3, 3)
    layer.classes_N = torch.tensor([0, 1, 2, 2, 1])
    torch.testing.assert_close(layer(x), plain(x))
    with torch.no_grad():
        layer.gain.weight[2] = 3.0
        layer.offset.weight[1] = torch.arange(4.0)
    y = plain(x)
    y[2:4] *= 3
    y[[1, 4]] += torch.arange(4.0).view(1, 4, 1, 1)
    torch.testing.assert_close(layer(x), y)


def test_noise_is_repeated_by_its_seed_and_draws_every_class() -> None:
    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        noise = ClassNoise(8, 5, torch.device("cpu"), torch.Generator().manual_seed(5))
        z_ND, y_N = noise(200)
        return z_ND, y_N

    first, second = draw(), draw()
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert first[1].bincount().min() > 20 and len(first[1].bincount()) == 5
