"""Generators make images of any shape, already in the network's normalized space."""

from __future__ import annotations

import pytest
import torch

from core.synthesis.generators import Generator, LatentNoise


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (1, 28, 28), (3, 33, 19), (3, 130, 96)])
def test_images_have_the_asked_shape(shape: tuple[int, int, int]) -> None:
    images = Generator(shape, latent_dim=16)(torch.randn(4, 16))
    assert images.shape == (4, *shape)


def test_the_papers_shape_starts_at_a_quarter_of_the_side() -> None:
    assert Generator((3, 32, 32)).start == (128, 8, 8)


def test_images_are_normalized_channel_by_channel() -> None:
    images = Generator((3, 32, 32))(torch.randn(16, 256))
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.ones(3), atol=1e-2, rtol=0)


def test_noise_is_repeated_by_its_seed() -> None:
    first, second = (
        LatentNoise(8, torch.device("cpu"), torch.Generator().manual_seed(5))(3) for _ in range(2)
    )
    assert torch.equal(first, second)
