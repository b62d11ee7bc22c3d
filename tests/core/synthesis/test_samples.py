"""The grid shows the images' true colors, enlarged without smoothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from core.synthesis.samples import write_grid


def test_pixels_are_denormalized(tmp_path: Path) -> None:
    mean, std = (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)
    pixels = torch.rand(4, 3, 16, 16).mul(255).round()
    images = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    write_grid(images, tmp_path / "samples.png", mean, std)
    with Image.open(tmp_path / "samples.png") as picture:
        factor, step = 6, 16 * 6 + 2
        assert picture.size == (2 * step + 2, 2 * step + 2)
        # Image 3 stands in the second row, second column.
        found = picture.getpixel((2 + step + 5 * factor, 2 + step + 7 * factor))
        assert found == tuple(int(v) for v in pixels[3, :, 7, 5])


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_any_number_of_images_and_channels(tmp_path: Path, channels: int) -> None:
    images = torch.full((5, channels, 8, 8), float("nan"))
    write_grid(images, tmp_path / "samples.png", (0.5,), (0.5,), limit=3)
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.size == (2 * 98 + 2, 2 * 98 + 2)


def test_a_row_shows_a_class(tmp_path: Path) -> None:
    """Brightness stands for the class; twelve of them, of which ten are shown."""
    labels = torch.arange(12).flip(0).repeat(9)
    images = (labels / 12).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    write_grid(images, tmp_path / "samples.png", (0.0,), (1.0,), labels=labels)
    with Image.open(tmp_path / "samples.png") as picture:
        step = 98
        assert picture.size == (6 * step + 2, 10 * step + 2), "64 images in ten rows make six columns"
        found = [[picture.getpixel((x * step + 50, y * step + 50)) for x in range(6)] for y in range(10)]
    assert found == [[(round(255 * c / 12),) * 3] * 6 for c in range(10)]


def test_classes_may_have_different_numbers_of_images(tmp_path: Path) -> None:
    write_grid(torch.zeros(4, 3, 8, 8), tmp_path / "a.png", (0.0,), (1.0,), labels=torch.tensor([5, 1, 5, 5]))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (3 * 98 + 2, 2 * 98 + 2)
        assert picture.getpixel((240, 50)) == (255, 255, 255), "class 1 has one image"
        assert picture.getpixel((240, 148)) == (0, 0, 0)
