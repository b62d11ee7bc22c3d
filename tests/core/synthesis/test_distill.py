"""Distilled images match the statistics better than noise, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from core.context import RunContext
from core.errors import Canceled
from core.synthesis.distill import ORIGINAL, Distilled, distill


def trained_network() -> nn.Sequential:
    """Random weights whose BN layers have seen smooth, colored images."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
    )
    images = nn.functional.interpolate(torch.randn(64, 3, 3, 3), size=12, mode="bilinear")
    for _ in range(30):
        layers(images)
    return layers.eval()


def test_statistics_distance_falls(tmp_path: Path) -> None:
    network = trained_network()
    result = distill(
        network, (3, 12, 12), images=20, iterations=60, batch_size=8, context=RunContext(tmp_path)
    )
    assert result.images.shape == (20, 3, 12, 12)
    assert result.first_loss is not None and result.last_loss is not None
    assert result.last_loss < result.first_loss / 5


def test_the_originals_recipe_starts_near_zero_and_matches_every_image(tmp_path: Path) -> None:
    network = trained_network()

    def distilled(iterations: int) -> Distilled:
        return distill(
            network,
            (3, 12, 12),
            images=8,
            iterations=iterations,
            recipe=ORIGINAL,
            context=RunContext(tmp_path),
        )

    start, end = distilled(1), distilled(150)
    assert start.first_loss == end.first_loss
    assert end.first_loss is not None and end.last_loss is not None and start.last_loss is not None
    assert end.last_loss < end.first_loss / 3
    deviations = end.images.flatten(2).std(2)
    assert (deviations - 1).abs().mean() < 0.3, "each image's own spread is that of normalized images"


def test_same_seed_same_images_and_the_network_is_untouched(tmp_path: Path) -> None:
    network = trained_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first, second = (
        distill(network, (3, 12, 12), images=4, iterations=5, context=RunContext(tmp_path, seed=3)).images
        for _ in range(2)
    )
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_without_bn_the_images_are_gaussian(tmp_path: Path) -> None:
    result = distill(nn.Conv2d(1, 2, 3), (1, 8, 8), images=64, iterations=10, context=RunContext(tmp_path))
    assert result.first_loss is None and result.last_loss is None
    assert abs(result.images.mean().item()) < 0.1 and abs(result.images.std().item() - 1) < 0.1


def test_when_it_is_enough_batches_not_yet_begun_are_left_out(tmp_path: Path) -> None:
    asked = []

    def enough() -> bool:
        asked.append(1)
        return len(asked) > 12

    result = distill(
        trained_network(),
        (3, 12, 12),
        images=12,
        iterations=10,
        batch_size=4,
        context=RunContext(tmp_path),
        enough=enough,
    )
    assert len(result.images) == 8, "the third batch was not begun"


class Tight(nn.Module):
    """Stands for an accelerator with memory for so many images, which runs out in the middle of a pass."""

    def __init__(self, network: nn.Sequential, fits: int) -> None:
        super().__init__()
        self.network, self.fits = network, fits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, layer in enumerate(self.network):
            x = layer(x)
            if index == 3 and len(x) > self.fits:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return x


def test_where_memory_runs_out_the_batches_are_halved(tmp_path: Path) -> None:
    def distilled(network: nn.Module, batch_size: int) -> Distilled:
        context = RunContext(tmp_path)
        return distill(network, (3, 12, 12), images=32, iterations=5, batch_size=batch_size, context=context)

    network = trained_network()
    found, expected = distilled(Tight(network, 5), 16), distilled(network, 4)
    assert torch.equal(found.images, expected.images)
    assert found.measures == expected.measures
    assert [note.split(" has ")[1] for note in found.notes] == ["8 images.", "4 images."]
    assert not expected.notes


def test_where_not_even_two_images_fit_the_error_passes(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        distill(
            Tight(trained_network(), 1), (3, 12, 12), images=8, iterations=5, context=RunContext(tmp_path)
        )


def test_cancel_stops_within_a_step(tmp_path: Path) -> None:
    steps = []

    def canceled() -> bool:
        steps.append(1)
        return len(steps) == 3

    with pytest.raises(Canceled):
        distill(
            trained_network(),
            (3, 12, 12),
            images=4,
            iterations=100,
            context=RunContext(tmp_path, canceled=canceled),
        )
    assert len(steps) == 3
