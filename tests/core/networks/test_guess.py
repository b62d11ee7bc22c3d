"""What a checkpoint really holds, among more than a thousand architectures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.networks import architectures, guess
from core.networks.guess import guess_architectures


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No guess is given up, however busy the machine is."""
    monkeypatch.setattr(guess, "_SECONDS", 600.0)


def state_of(name: str, classes: int = 6, **options: int) -> dict[str, Tensor]:
    return {
        k: torch.empty(v.shape)
        for k, v in architectures.skeleton(name, classes, **options).state_dict().items()
    }


@pytest.mark.parametrize(
    ("really", "guessed"),
    [
        ("cifar/resnet20", ["cifar/resnet20"]),
        ("torchvision/mobilenet_v2", ["torchvision/mobilenet_v2"]),
        ("timm/convnext_atto", ["timm/convnext_atto"]),
        # The same names and shapes; timm's copies come after torchvision's.
        ("torchvision/densenet121", ["torchvision/densenet121", "timm/densenet121"]),
        ("timm/densenet121", ["torchvision/densenet121", "timm/densenet121"]),
    ],
)
def test_the_architecture_is_found(really: str, guessed: list[str]) -> None:
    assert guess_architectures(state_of(really), "cifar/resnet8") == guessed


def test_those_that_pad_differently_are_named_beside_each_other() -> None:
    found = guess_architectures(state_of("timm/tf_efficientnet_b0"), "cifar/resnet8")
    assert {"timm/efficientnet_b0", "timm/tf_efficientnet_b0"} <= set(found) and len(found) <= 3


def test_what_was_said_comes_first_when_it_fits() -> None:
    assert guess_architectures(state_of("timm/resnet50"), "timm/resnet50")[0] == "timm/resnet50"


def test_the_right_size_comes_first() -> None:
    """All of them have the same names; the position embedding tells them apart."""
    found = guess_architectures(state_of("timm/vit_base_patch16_384"), "cifar/resnet8")
    assert found and all(name.endswith("_384") for name in found[:2])


def test_other_channels_are_no_obstacle_where_they_can_be_built() -> None:
    assert (
        guess_architectures(state_of("timm/resnet50", in_channels=1), "cifar/resnet8")[0] == "timm/resnet50"
    )


def test_only_networks_with_the_checkpoints_names_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    state, built = state_of("timm/regnety_040"), []
    skeleton = architectures.skeleton
    monkeypatch.setattr(
        architectures, "skeleton", lambda name, *a, **k: built.append(name) or skeleton(name, *a, **k)
    )
    architectures.shapes.cache_clear()
    assert "timm/regnety_040" in guess_architectures(state, "cifar/resnet8")
    assert built and all(name.startswith(("timm/regnet", "torchvision/regnet")) for name in built)
    built.clear()
    assert guess_architectures({**state, "another.weight": torch.ones(1)}, "cifar/resnet8") == []
    assert not built
