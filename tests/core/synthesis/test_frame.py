"""Synthetic images lie where the network's own do, however it normalizes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

from core.context import RunContext
from core.fake_quant.insert import build_student
from core.methods import registry
from core.networks.graph import trace
from core.spec import BitSpec, Budget, FastConfig, GdfqConfig, MinMaxConfig, ZaqConfig, ZeroqConfig
from core.synthesis.distill import BRIEF, DEFAULT, Recipe, distill
from core.synthesis.frame import LARGEST, frame_of, set_pixel_range

SHAPE = (3, 12, 12)
SMALL: dict[str, Any] = {
    "batch_size": 8,
    "warmup_iterations": 2,
    "budget": Budget(iterations=1),
    "latent_dim": 8,
}


def teacher(mean: float, std: float) -> fx.GraphModule:
    """Its batch normalization has seen smooth images, normalized so."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    pixels = nn.functional.interpolate(torch.rand(64, 3, 3, 3), size=12, mode="bilinear")
    for _ in range(60):
        layers((pixels - mean) / std)
    graph = trace(layers.eval(), SHAPE).requires_grad_(False)
    set_pixel_range(graph, [mean] * 3, [std] * 3)
    return graph


@pytest.mark.parametrize(("mean", "std"), [(0.45, 0.225), (0.5, 0.5), (0.1307, 0.3081)])
def test_usual_normalizations_change_nothing(mean: float, std: float) -> None:
    assert frame_of(teacher(mean, std)) is None
    assert frame_of(nn.Identity()) is None


@pytest.mark.parametrize("recipe", [BRIEF, DEFAULT], ids=["spectrum", "pixels"])
def test_images_fill_the_range_of_raw_pixels(tmp_path: Path, recipe: Recipe) -> None:
    context = RunContext(tmp_path, device=torch.device("cpu"))
    for iterations in (0, 20):
        images = distill(
            teacher(0.0, 1 / 255), SHAPE, images=32, iterations=iterations, context=context, recipe=recipe
        ).images
        assert images.mean() == pytest.approx(127, abs=40)
        assert images.max() > 180 and images.min() < 70
        if recipe.spectrum:
            assert images.min() >= 0 and images.max() <= 255


def test_channels_have_ranges_of_their_own() -> None:
    graph = teacher(0.0, 0.1)
    set_pixel_range(graph, [0.0, 0.5, 0.5], [0.1, 0.5, 0.05])
    frame = frame_of(graph)
    assert frame is not None
    for sign, ends in ((-1, [0.0, -1.0, -10.0]), (1, [10.0, 1.0, 10.0])):
        placed = frame.place(torch.full((1, 3, 2, 2), sign * LARGEST))
        assert torch.allclose(placed[0, :, 0, 0], torch.tensor(ends), atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        MinMaxConfig(images=16, iterations=5),
        FastConfig(images=16, iterations=5),
        ZeroqConfig(images=16, iterations=5),
        GdfqConfig(**SMALL),
        ZaqConfig(**SMALL),
    ],
    ids=lambda config: config.name,
)
def test_every_method_quantizes_raw_pixels(tmp_path: Path, config: object) -> None:
    """Their range reaches far beyond what normalized images need."""
    graph = teacher(0.0, 1 / 255)
    student = build_student(graph, BitSpec.parse("w8a8"))
    registry.run(graph, student, config, RunContext(tmp_path, device=torch.device("cpu")))  # type: ignore[arg-type]
    first = next(iter(student.activation_quantizers().values()))
    assert float(first.scale * (first.high - first.zero_point)) > 150
