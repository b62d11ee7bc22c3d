from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from core.evaluate import datasets
from core.networks import architectures
from core.spec import MinMaxConfig

CLASSES = 6


@pytest.fixture
def accuracy() -> ModuleType:
    return importlib.import_module("accuracy")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "network.pt"
    torch.save(architectures.build("cifar/resnet20", num_classes=CLASSES).state_dict(), path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images of each class, its number in their first pixel, in folders named as ImageNet's are."""
    folder = tmp_path / "val"
    for label in range(CLASSES):
        (folder / f"n0{label}").mkdir(parents=True)
        for index in range(2):
            pixels = np.random.default_rng(label).integers(0, 256, (32, 32, 3), np.uint8)
            pixels[0, 0] = label, index, 0
            Image.fromarray(pixels).save(folder / f"n0{label}" / f"{index}.png")
    return folder


def test_a_checkpoint_and_a_folder_of_images_become_a_table(
    accuracy: ModuleType,
    checkpoint: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = tmp_path / "table.md"
    monkeypatch.setattr(accuracy, "table_path", lambda: written)
    monkeypatch.setattr(accuracy, "baseline_config", lambda shape: MinMaxConfig(images=2, iterations=1))
    command = ["--checkpoint", str(checkpoint), "--architecture", "cifar/resnet20", "--images", str(images)]
    command += ["--method", "minmax", "--options", '{"images": 2, "iterations": 1}', "--write"]
    accuracy.main([*command, "--bits", "w8a8", "w4a4", "--seeds", "1"])

    rows = accuracy.accuracy_table.read(written.read_text())
    assert [(row["bits"], row["seed"], row["count"]) for row in rows] == [
        ("w8a8", "1", "12"),
        ("w4a4", "1", "12"),
    ]
    for row in rows:
        assert row["network"] == "cifar/resnet20, network.pt" and row["images"] == "val"
        # The method is the baseline here, and its file computes what its student does.
        assert row["result's file"] == row["round to nearest"] == row["result in torch"]
        float32, file = (float(row[column].split(" / ")[0]) for column in ("float32", "result's file"))
        assert float(row["below float32"]) == pytest.approx(float32 - file, abs=0.011)


def test_folders_are_classes_only_if_none_is_missing(
    accuracy: ModuleType, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    for file in (images / "n03").iterdir():
        file.unlink()
    spec = accuracy.NetworkSpec("cifar/resnet20")
    subject = accuracy.Subject("cifar/resnet20", checkpoint, spec, {"val": images})
    with pytest.raises(ValueError, match="5 folders, and the network 6 classes"):
        accuracy.Network(subject, None, tmp_path)


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_some_of_a_set_are_spread_over_it(
    accuracy: ModuleType, images: Path, tmp_path: Path, form: str
) -> None:
    if form == "npz":
        files = sorted(images.glob("*/*.png"))
        x_NHWC = np.stack([np.asarray(Image.open(file)) for file in files])
        path = tmp_path / "set.npz"
        np.savez(path, x=x_NHWC, y=np.repeat(np.arange(CLASSES), 2))
    else:
        path = accuracy.archived(images, tmp_path)
    dataset = accuracy.thinned(datasets.open_dataset(path), 6)
    ((x_NCHW, y_N),) = dataset.batches((3, 32, 32), (0.0,) * 3, (1 / 255,) * 3, 100)
    assert len(dataset) == 6 and y_N.tolist() == list(range(CLASSES))
    assert x_NCHW[:, 0, 0, 0].round().tolist() == y_N.tolist()


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["--checkpoint", "a.pt", "--architecture", "cifar/resnet20"],
        ["--data", "d", "--images", "val"],
        ["--data", "d", "torchvision/resnet18"],
    ],
)
def test_a_command_that_lacks_something_is_refused(
    accuracy: ModuleType, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        accuracy.main(command)
    assert "error:" in capsys.readouterr().err


def test_an_option_that_a_method_lacks_is_refused(accuracy: ModuleType) -> None:
    with pytest.raises(ValueError, match="rounding"):
        accuracy.methods(["zeroq"], {"rounding": "gptq"})
