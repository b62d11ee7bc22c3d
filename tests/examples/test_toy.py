"""GDFQ's points lie in the classes that they were made to be; those of the statistics alone also between."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from core.context import RunContext
from examples.toy import toy


@pytest.fixture(scope="module")
def context() -> RunContext:
    return RunContext(Path(), device=torch.device("cpu"))


@pytest.fixture(scope="module")
def classifier(context: RunContext) -> nn.Module:
    return toy.train_classifier(context)


def test_generated_points_are_recognized_and_where_real_ones_are(
    classifier: nn.Module, context: RunContext
) -> None:
    x_NCHW, y_N = toy.gdfq_points(classifier, context)
    found = toy.measure(classifier, x_NCHW, y_N)
    assert found["recognized"] > 99
    assert found["classes"] == toy.CLASSES
    assert found["unsure"] < 5
    assert found["inside"] > 90


def test_distilled_points_match_the_statistics_but_not_the_classes(
    classifier: nn.Module, context: RunContext
) -> None:
    noise = torch.randn(toy.POINTS, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    distilled = toy.measure(classifier, toy.zeroq_points(classifier, context))
    generated = toy.measure(classifier, *toy.gdfq_points(classifier, context))
    assert "recognized" not in distilled, "they were made to be nothing"
    assert distilled["distance"] < toy.measure(classifier, noise)["distance"] / 5
    assert distilled["distance"] < generated["distance"]
    assert distilled["unsure"] > 15
    assert distilled["inside"] < generated["inside"] - 10


def test_the_same_seed_makes_the_same_points(classifier: nn.Module, context: RunContext) -> None:
    (first, labels), (again, _) = (toy.gdfq_points(classifier, context) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (toy.POINTS, 2, 1, 1) and labels.shape == (toy.POINTS,)


def test_shares_are_counted_on_points_whose_place_is_known(classifier: nn.Module) -> None:
    x_NCHW = toy.CENTERS_K2[:, :, None, None].clone()
    x_NCHW[-1] = 50.0
    y_N = classifier(x_NCHW).argmax(1)
    y_N[0] += 1
    found = toy.measure(classifier, x_NCHW, y_N)
    assert (found["recognized"], found["inside"], found["unsure"]) == (75, 75, 0)


def test_the_picture_shows_the_points_in_their_classes_colors(classifier: nn.Module) -> None:
    y_N = torch.arange(toy.CLASSES)
    picture = toy.panel(classifier, "", toy.CENTERS_K2[:, :, None, None], y_N)
    for (x, y), color in zip(toy.CENTERS_K2.tolist(), toy.COLORS_K3.tolist(), strict=True):
        place = (picture.width * (1 + x / toy.EXTENT) / 2, picture.height * (1 - y / toy.EXTENT) / 2)
        assert picture.getpixel((int(place[0]), int(place[1]))) == tuple(color)


def test_the_script_draws_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.main(tmp_path / "toy.png")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["real", "GDFQ", "ZeroQ"]
    with Image.open(tmp_path / "toy.png") as picture:
        assert picture.width > 2.9 * picture.height
