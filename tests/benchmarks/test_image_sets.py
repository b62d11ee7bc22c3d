from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from torch import nn

from core.evaluate import datasets
from core.networks.inspect import LoadedNetwork

NETWORK = LoadedNetwork(nn.Identity(), (3, 32, 32), (0.5,) * 3, (0.5,) * 3, 6, {})


@pytest.fixture
def image_sets() -> ModuleType:
    return importlib.import_module("image_sets")


def test_a_folder_holds_its_images_and_those_that_it_links_to(
    image_sets: ModuleType, images: Path, tmp_path: Path
) -> None:
    (images / "n00" / "2.png").symlink_to(images / "n00" / "0.png")
    dataset = image_sets.opened(images, NETWORK, tmp_path)
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_numbered_folders_may_be_missing(image_sets: ModuleType, images: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"
    some.mkdir()
    for label in (1, 4):
        (images / f"n0{label}").rename(some / f"000{label}")
    assert image_sets.opened(some, NETWORK, tmp_path).labels.tolist() == [1, 1, 4, 4]


def test_folders_are_classes_only_if_none_is_missing(
    image_sets: ModuleType, images: Path, tmp_path: Path
) -> None:
    for file in (images / "n03").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="5 folders, and the network 6 classes"):
        image_sets.opened(images, NETWORK, tmp_path)


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_some_of_a_set_are_spread_over_it(
    image_sets: ModuleType, images: Path, tmp_path: Path, form: str
) -> None:
    if form == "npz":
        files = sorted(images.glob("*/*.png"))
        x_NHWC = np.stack([np.asarray(Image.open(file)) for file in files])
        path = tmp_path / "set.npz"
        np.savez(path, x=x_NHWC, y=np.repeat(np.arange(6), 2))
    else:
        path = image_sets.archived(images, tmp_path)
    dataset = image_sets.thinned(datasets.open_dataset(path), 6)
    ((x_NCHW, y_N),) = dataset.batches((3, 32, 32), (0.0,) * 3, (1 / 255,) * 3, 100)
    assert len(dataset) == 6 and y_N.tolist() == list(range(6))
    assert x_NCHW[:, 0, 0, 0].round().tolist() == y_N.tolist()
