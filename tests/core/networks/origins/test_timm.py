"""What is particular to timm: buffers that no file holds, sizes and channels found in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from core.errors import CheckpointError
from core.networks.inspect import LoadedNetwork, load_network
from core.networks.origins import timm as origin
from core.spec import NetworkSpec


def network_of(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


def load(path: Path, network: nn.Module, name: str, **spec: Any) -> LoadedNetwork:
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    safetensors.torch.save_file(state, path / "model.safetensors", {"format": "pt"})
    return load_network(path / "model.safetensors", NetworkSpec(f"timm/{name}", **spec))


# One of each way in which timm's networks keep tables that are not saved with them.
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("test_efficientnet", 64),
        ("levit_128s", 64),
        ("swin_tiny_patch4_window7_224", 64),
        ("swinv2_cr_tiny_224", 64),
        ("test_vit_relpos", 64),
        ("vit_tiny_patch16_dinov3_qkvb", 64),
        ("resnetblur18", 64),
        ("test_coatnet", 64),
        ("convit_tiny", 64),
    ],
)
@torch.no_grad()
def test_a_file_of_timm_computes_what_the_network_did(tmp_path: Path, name: str, side: int) -> None:
    shape = (3, side, side)
    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    network = network_of(name, num_classes=5, **({"img_size": side} if fixed else {}))
    found = load(tmp_path, network, name, input_shape=shape)
    x_NCHW = torch.randn(2, *shape)
    torch.testing.assert_close(found.network(x_NCHW), network(x_NCHW), rtol=1e-4, atol=1e-5)
    assert not any(tensor.is_meta for tensor in (*found.network.parameters(), *found.network.buffers()))
    assert found.num_classes == 5


def test_the_defaults_are_those_of_the_published_weights(tmp_path: Path) -> None:
    found = load(tmp_path, network_of("tf_efficientnet_lite0"), "tf_efficientnet_lite0")
    assert found.input_shape == (3, 224, 224) and found.num_classes == 1000
    assert found.mean == found.std == (0.5, 0.5, 0.5)
    assert found.inspection["parameters"] == 4_652_008


@pytest.mark.parametrize(("name", "channels"), [("test_resnet", 1), ("tresnet_m", 4), ("test_vit", 2)])
def test_channels_are_found_in_the_file(tmp_path: Path, name: str, channels: int) -> None:
    """Also where the stem reads 4 x 4 pixels as channels of one (tresnet)."""
    found = load(tmp_path, network_of(name, num_classes=3, in_chans=channels), name)
    assert found.input_shape[0] == channels and found.mean == (0.5,) * channels


@pytest.mark.parametrize(("name", "size"), [("vit_tiny_patch16_224", 96), ("deit_tiny_patch16_224", 64)])
def test_the_image_size_is_found_in_the_position_embedding(tmp_path: Path, name: str, size: int) -> None:
    found = load(tmp_path, network_of(name, num_classes=3, img_size=size), name)
    assert found.input_shape == (3, size, size)


def test_tables_in_older_files_are_left_to_the_network(tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    network = network_of(name, num_classes=2, img_size=64)
    network.layers[0].blocks[0].attn.register_buffer("relative_position_index", torch.zeros(49, 49))
    assert load(tmp_path, network, name, input_shape=(3, 64, 64)).num_classes == 2


def test_a_network_published_without_a_classifier_is_quantized_with_the_users(tmp_path: Path) -> None:
    name = "vit_small_patch14_dinov2"
    assert origin.defaults(name).num_classes is None
    fine_tuned = network_of(name, num_classes=4, img_size=56)
    assert load(tmp_path, fine_tuned, name).num_classes == 4
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, network_of(name, num_classes=0, img_size=56), name)
    assert caught.value.code == "missing_keys" and "head.weight" in caught.value.detail


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> Tensor:
        raise AssertionError("timm tried to download")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    assert isinstance(origin.build("resnet18.a1_in1k", 3, (3, 32, 32)), nn.Module)
