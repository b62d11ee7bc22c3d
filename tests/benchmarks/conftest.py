from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs in benchmarks/ import each other as the interpreter finds them when it runs one."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images of each of six classes, its number in their first pixel, folders named like ImageNet's."""
    folder = tmp_path / "val"
    for label in range(6):
        (folder / f"n0{label}").mkdir(parents=True)
        for index in range(2):
            pixels = np.random.default_rng(label).integers(0, 256, (32, 32, 3), np.uint8)
            pixels[0, 0] = label, index, 0
            Image.fromarray(pixels).save(folder / f"n0{label}" / f"{index}.png")
    return folder
