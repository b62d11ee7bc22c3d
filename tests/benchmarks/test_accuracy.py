from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from core.networks import architectures
from core.spec import MinMaxConfig


@pytest.fixture
def accuracy() -> ModuleType:
    return importlib.import_module("accuracy")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "network.pt"
    torch.save(architectures.build("cifar/resnet20", num_classes=6).state_dict(), path)
    return path


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
