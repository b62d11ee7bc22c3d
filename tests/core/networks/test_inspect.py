"""What fits is described, what does not is named, with what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import ArchitectureError, CheckpointError, InputError
from core.networks import architectures, guess
from core.networks.inspect import LoadedNetwork, load_network
from core.spec import NetworkSpec

CIFAR = "cifar/resnet8"


def save(tmp_path: Path, state: dict[str, Any]) -> Path:
    torch.save(state, tmp_path / "c.pt")
    return tmp_path / "c.pt"


def random_state(name: str = CIFAR, **options: Any) -> dict[str, Tensor]:
    return architectures.build(name, **options).state_dict()


def load(tmp_path: Path, state: dict[str, Any], name: str = CIFAR, **spec: Any) -> LoadedNetwork:
    return load_network(save(tmp_path, state), NetworkSpec(name, **spec))


def refused(tmp_path: Path, state: dict[str, Any], name: str = CIFAR, **spec: Any) -> InputError:
    with pytest.raises((CheckpointError, ArchitectureError)) as caught:
        load(tmp_path, state, name, **spec)
    assert caught.value.field
    return caught.value


def test_the_network_computes_what_the_checkpoints_network_did(tmp_path: Path) -> None:
    original = architectures.build(CIFAR)
    for module in original.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean, module.running_var = (
                torch.randn_like(module.bias),
                torch.rand_like(module.bias),
            )
    found = load(tmp_path, original.state_dict())
    x_NCHW = torch.randn(2, 3, 32, 32)
    assert torch.equal(found.network(x_NCHW), original(x_NCHW))
    assert not found.network.training
    assert not any(tensor.is_meta for tensor in found.network.state_dict().values())


def test_the_inspection_of_a_cifar_network(tmp_path: Path) -> None:
    found = load(tmp_path, random_state(num_classes=4)).inspection
    names = found.pop("layer_names")
    assert names[0] == "conv1" and names[-1] == "linear" and len(names) == 8
    assert found == {
        "parameters": 74900,
        "layers": 8,
        "input_shape": [3, 32, 32],
        "num_classes": 4,
        "float32_bytes": 4 * (74900 + 2 * (16 + 2 * 16 + 2 * 32 + 2 * 64)),
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2470, 0.2435, 0.2616],
    }


def test_channels_and_normalization_follow_what_was_found_or_said(tmp_path: Path) -> None:
    gray = random_state(in_channels=1)
    found = load(tmp_path, gray)
    assert (found.input_shape, found.mean, found.std) == ((1, 32, 32), (0.5,), (0.5,))
    found = load(tmp_path, gray, input_shape=(1, 28, 28), mean=(0.1,), std=(0.3,))
    assert (found.input_shape, found.mean, found.std) == ((1, 28, 28), (0.1,), (0.3,))
    found = load(tmp_path, random_state(), mean=(0.1,))
    assert found.mean == (0.1, 0.1, 0.1)


def test_absent_batch_counters_are_forgiven(tmp_path: Path) -> None:
    state = {k: v for k, v in random_state().items() if not k.endswith("num_batches_tracked")}
    assert load(tmp_path, state).num_classes == 10


@pytest.mark.parametrize(
    ("name", "shape"), [("torchvision/googlenet", (3, 64, 64)), ("torchvision/inception_v3", (3, 80, 80))]
)
def test_auxiliary_classifiers_are_dropped(tmp_path: Path, name: str, shape: tuple[int, int, int]) -> None:
    aux = (
        {"aux1.fc2.weight": torch.ones(3, 2)}
        if "google" in name
        else {"AuxLogits.fc.weight": torch.ones(3, 2)}
    )
    assert load(tmp_path, random_state(name, num_classes=3) | aux, name, input_shape=shape).num_classes == 3


def _rename(state: dict[str, Tensor], pairs: list[tuple[str, str]]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        for new, old in pairs:
            key = key.replace(new, old)
        renamed[key] = value
    return renamed


def test_torchvisions_old_names_are_understood(tmp_path: Path) -> None:
    name = "torchvision/densenet121"
    pairs = [(f"{kind}{i}.", f"{kind}.{i}.") for kind in ("norm", "conv") for i in (1, 2)]
    state = random_state(name, num_classes=2)
    old = {k: v for k, v in state.items() if "denselayer" not in k}
    old |= _rename({k: v for k, v in state.items() if "denselayer" in k}, pairs)
    assert load(tmp_path, old, name, input_shape=(3, 32, 32)).num_classes == 2


def test_a_vision_transformers_image_size_is_found_in_its_position_embedding(tmp_path: Path) -> None:
    name = "torchvision/vit_b_32"
    state = random_state(name, num_classes=2, input_shape=(3, 96, 96))
    old = _rename(state, [(".mlp.0.", ".mlp.linear_1."), (".mlp.3.", ".mlp.linear_2.")])
    assert load(tmp_path, old, name).input_shape == (3, 96, 96)


# --- mismatches ---------------------------------------------------------------------------------


def test_missing_keys_are_named(tmp_path: Path) -> None:
    state = random_state()
    del state["layer1.0.conv1.weight"], state["linear.bias"]
    error = refused(tmp_path, state)
    assert error.code == "missing_keys"
    assert "2 keys" in error.detail and "layer1.0.conv1.weight, linear.bias" in error.detail


def test_unexpected_keys_are_named_up_to_five(tmp_path: Path) -> None:
    state = random_state() | {f"extra{i}.weight": torch.ones(1) for i in range(9)}
    error = refused(tmp_path, state)
    assert error.code == "unexpected_keys"
    assert "9 keys" in error.detail and "extra4.weight" in error.detail and "extra5" not in error.detail


def test_different_shapes_are_named_with_both(tmp_path: Path) -> None:
    state = random_state() | {"layer2.0.conv1.weight": torch.ones(8, 16, 3, 3)}
    error = refused(tmp_path, state)
    assert error.code == "shape_mismatch"
    assert "layer2.0.conv1.weight is 8x16x3x3, should be 32x16x3x3" in error.detail


def test_a_wrong_number_of_classes_says_so(tmp_path: Path) -> None:
    error = refused(tmp_path, random_state(num_classes=10), num_classes=100)
    assert (error.code, error.field) == ("shape_mismatch", "num_classes")
    assert "10 outputs" in error.detail and "100" in error.detail


def test_every_class_needs_a_name_or_none_has_one(tmp_path: Path) -> None:
    state = random_state(num_classes=4)
    error = refused(tmp_path, state, classes=("cat", "dog"))
    assert (error.code, error.field) == ("invalid_classes", "classes")
    assert "2 classes" in error.detail and "has 4" in error.detail
    assert load(tmp_path, state, classes=("cat", "dog", "emu", "fox")).num_classes == 4


@pytest.mark.parametrize(
    ("really", "said", "code"),
    [
        ("cifar/resnet14", "cifar/resnet8", "unexpected_keys"),
        ("cifar/resnet8", "torchvision/resnet18", "missing_keys"),
        ("torchvision/resnet34", "torchvision/resnet18", "unexpected_keys"),
        ("torchvision/shufflenet_v2_x1_0", "torchvision/shufflenet_v2_x0_5", "shape_mismatch"),
    ],
)
def test_the_architecture_that_it_really_is_is_guessed(
    tmp_path: Path, really: str, said: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guess, "_SECONDS", 600.0)  # no guess is given up, however busy the machine is
    error = refused(tmp_path, random_state(really, num_classes=6), said)
    assert error.code == code and f"architecture={really}" in error.detail


def test_no_guess_is_made_for_a_stranger(tmp_path: Path) -> None:
    error = refused(tmp_path, {"strange.weight": torch.ones(3)})
    assert error.code == "missing_keys" and "upload them with" not in error.detail


def test_negative_variances(tmp_path: Path) -> None:
    error = refused(tmp_path, random_state() | {"bn1.running_var": torch.full((16,), -1.0)})
    assert error.code == "non_finite_weights" and "bn1.running_var" in error.detail


def test_finite_weights_whose_logits_are_not(tmp_path: Path) -> None:
    state = {k: v * 1e30 if k.endswith("weight") else v for k, v in random_state().items()}
    error = refused(tmp_path, state)
    assert error.code == "non_finite_weights" and "logits" in error.detail


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("torchvision/alexnet", {}, (3, 16, 16)),
        (CIFAR, {}, (3, 5000, 5000)),
        ("torchvision/squeezenet1_1", {}, (1, 64, 64)),
    ],
)
def test_an_input_shape_that_does_not_fit(
    tmp_path: Path, name: str, options: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    error = refused(tmp_path, random_state(name, num_classes=2, **options), name, input_shape=shape)
    assert (error.code, error.field) == ("invalid_input_shape", "input_shape")


def test_channels_that_the_checkpoint_does_not_have(tmp_path: Path) -> None:
    error = refused(tmp_path, random_state(), input_shape=(1, 32, 32))
    assert error.code == "shape_mismatch" and "conv1.weight is 16x3x3x3, should be 16x1x3x3" in error.detail


@pytest.mark.parametrize("spoil", [lambda v: v.unsqueeze(0), lambda v: v.reshape(-1)[0], lambda v: v[:0]])
def test_a_last_layer_of_any_shape_is_only_a_mismatch(
    tmp_path: Path, spoil: Callable[[Tensor], Tensor]
) -> None:
    state = random_state()
    for key in ("linear.weight", "linear.bias"):
        state[key] = spoil(state[key])
    assert refused(tmp_path, state).code == "shape_mismatch"
