"""The registry builds what it names, and its catalogue says what it builds."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torchvision.models

from core.errors import ArchitectureError
from core.networks import architectures, catalogue
from core.networks.origins import timm as timm_origin


def test_every_classification_network_of_torchvision_is_there_but_the_two_that_are_too_large() -> None:
    here = {name.removeprefix("torchvision/") for name in architectures.names()}
    assert set(torchvision.models.list_models(torchvision.models)) - here == {"regnet_y_128gf", "vit_h_14"}
    assert {f"cifar/resnet{depth}" for depth in (20, 32, 44, 56, 110)} <= set(architectures.names())


# The next four: is the catalogue stale? python -m core.networks.architectures


@pytest.mark.parametrize("origin", architectures.ORIGINS)
def test_the_catalogue_offers_or_leaves_out_every_name_of_the_libraries(origin: str) -> None:
    here = [name for name in (*catalogue.names(), *catalogue.left_out()) if name.startswith(f"{origin}/")]
    assert len(here) == len(set(here))
    assert set(here) == set(architectures.candidates(origin))


def test_the_catalogue_describes_the_small_libraries() -> None:
    for entry in catalogue.load():
        if not entry["name"].startswith("timm/"):
            assert entry == architectures.describe(entry["name"])


def test_the_catalogue_describes_timm() -> None:
    """The parameters, which take a tenth of a second each, of every hundredth network alone."""
    entries = [entry for entry in catalogue.load() if entry["name"].startswith("timm/")]
    assert len(entries) > 1200
    for entry in entries:
        known, short = architectures.defaults(entry["name"]), entry["name"].removeprefix("timm/")
        assert entry["family"] == architectures.family(entry["name"])
        assert tuple(entry["tags"]) == timm_origin.tags(short)
        assert entry["num_classes"] == known.num_classes
        assert (tuple(entry["input_shape"]), tuple(entry["mean"]), tuple(entry["std"])) == (
            known.input_shape,
            known.mean,
            known.std,
        )
    for entry in entries[::100]:
        assert entry == architectures.describe(entry["name"])


def test_what_is_left_out_has_a_reason() -> None:
    reasons = catalogue.left_out()
    assert all(entry["parameters"] <= architectures.MAX_PARAMETERS for entry in catalogue.load())
    for name, reason in reasons.items():
        short = name.removeprefix("timm/")
        assert reason == (name.startswith("timm/") and timm_origin.left_out(short)) or "parameters" in reason
    for name in ("torchvision/vit_h_14", "timm/convnext_xxlarge"):
        assert f"{architectures.describe(name)['parameters']:,} parameters" in reasons[name]


def test_parameter_counts_are_torchvisions_own() -> None:
    for entry in catalogue.load():
        origin, _, short = entry["name"].partition("/")
        # Its published counts of these two include the auxiliary classifiers or another crop.
        if origin == "torchvision" and short not in ("inception_v3",):
            weights = torchvision.models.get_model_weights(short).DEFAULT
            assert entry["parameters"] == weights.meta["num_params"], short


def test_the_catalogue_is_read_without_torch() -> None:
    code = (
        "import sys\n"
        "from core.networks import catalogue\n"
        "assert 'torchvision/resnet18' in catalogue.names()\n"
        "assert not {'torch', 'torchvision', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cifar/resnet8", (3, 32, 32)),
        ("torchvision/squeezenet1_1", (3, 64, 64)),
        ("torchvision/shufflenet_v2_x0_5", (3, 64, 64)),
        ("torchvision/mnasnet0_5", (3, 64, 64)),
        ("torchvision/googlenet", (3, 64, 64)),
        ("torchvision/inception_v3", (3, 80, 80)),
        ("torchvision/vit_b_32", (3, 64, 64)),
        ("timm/test_byobnet", (3, 64, 64)),
        ("timm/test_vit", (1, 64, 64)),
        ("timm/swin_tiny_patch4_window7_224", (3, 64, 64)),
        ("timm/resnet18.a1_in1k", (4, 64, 64)),
    ],
)
def test_built_networks_answer_with_the_classes_asked_for(name: str, shape: tuple[int, int, int]) -> None:
    network = architectures.build(name, num_classes=7, input_shape=shape)
    assert not network.training
    with torch.no_grad():
        logits_NK = network(torch.randn(2, *shape))
    assert logits_NK.shape == (2, 7) and torch.isfinite(logits_NK).all()


def test_a_skeleton_has_the_names_and_shapes_of_the_network_and_no_memory() -> None:
    for name in ("cifar/resnet20", "torchvision/regnet_y_400mf", "torchvision/swin_t", "timm/resnetrs50"):
        light, real = architectures.skeleton(name, 5), architectures.build(name, 5)
        shapes = {key: value.shape for key, value in real.state_dict().items()}
        assert {key: value.shape for key, value in light.state_dict().items()} == shapes
        assert all(parameter.is_meta for parameter in light.parameters())


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("cifar/resnet20", ("linear.weight", "linear.bias")),
        ("torchvision/resnet18", ("fc.weight", "fc.bias")),
        ("torchvision/squeezenet1_0", ("classifier.1.weight", "classifier.1.bias")),
        ("torchvision/maxvit_t", ("classifier.5.weight",)),
        ("torchvision/vit_b_16", ("heads.head.weight", "heads.head.bias")),
        ("timm/tf_efficientnet_lite0", ("classifier.weight", "classifier.bias")),
        ("timm/mobilenetv4_hybrid_medium", ("classifier.weight", "classifier.bias")),
        ("timm/nasnetalarge", ("last_linear.weight", "last_linear.bias")),
        ("timm/fastvit_t8", ("head.fc.weight", "head.fc.bias")),
        ("timm/vit_small_patch14_dinov2", ("head.weight", "head.bias")),
        (
            "timm/deit_tiny_distilled_patch16_224",
            ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias"),
        ),
    ],
)
def test_the_last_layer_is_found(name: str, keys: tuple[str, ...]) -> None:
    assert architectures.head_keys(name) == keys


@pytest.mark.parametrize("origin", architectures.ORIGINS)
def test_every_family_has_a_last_layer(origin: str) -> None:
    smallest: dict[str, str] = {}
    for entry in sorted(catalogue.load(), key=lambda entry: entry["parameters"]):
        if entry["name"].startswith(f"{origin}/"):
            smallest.setdefault(entry["family"], entry["name"])
    assert len(smallest) == {"cifar": 1, "torchvision": 17, "timm": 94}[origin]
    every = 1 if origin != "timm" else 6  # a tenth of a second each
    assert all(architectures.head_keys(name) for name in list(smallest.values())[::every])


def test_normalization_has_a_value_a_channel() -> None:
    assert all(len(e["mean"]) == len(e["std"]) == e["input_shape"][0] for e in catalogue.load())
    assert all(value > 0 for entry in catalogue.load() for value in entry["std"])


def test_the_inception_networks_compute_the_same_without_torchvisions_detour() -> None:
    # transform_input turns ImageNet's normalization into [-1, 1]; our defaults start there.
    network = architectures.build("torchvision/googlenet", 4)
    known = architectures.defaults("torchvision/googlenet")
    pixels_NCHW = torch.rand(1, 3, 64, 64)
    imagenet = [torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    ours = [torch.tensor(v).view(3, 1, 1) for v in (known.mean, known.std)]
    with torch.no_grad():
        plain = network((pixels_NCHW - ours[0]) / ours[1])
        network.transform_input = True  # type: ignore[assignment]
        theirs = network((pixels_NCHW - imagenet[0]) / imagenet[1])
    torch.testing.assert_close(plain, theirs, rtol=1e-4, atol=1e-5)


def test_an_unknown_name_is_refused_with_the_closest_ones() -> None:
    with pytest.raises(ArchitectureError, match="torchvision/resnet50") as caught:
        architectures.build("torchvision/resnet_50")
    assert (caught.value.code, caught.value.field) == ("unknown_architecture", "architecture")


@pytest.mark.parametrize(
    "name",
    [
        "fcn_resnet50",
        "torchvision/fcn_resnet50",
        "resnet18",
        "",
        "cifar/resnet21",
        "timm/hf-hub:timm/resnet18",
    ],
)
def test_only_the_list_is_built(name: str) -> None:
    with pytest.raises(ArchitectureError):
        architectures.build(name)


def test_torchvisions_networks_take_three_channels_alone() -> None:
    assert architectures.build("cifar/resnet8", in_channels=1)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    with pytest.raises(ArchitectureError) as caught:
        architectures.build("torchvision/resnet18", in_channels=1)
    assert caught.value.code == "invalid_input_shape"


def test_a_tag_brings_the_defaults_of_its_weights() -> None:
    plain = architectures.defaults("timm/mobilenetv3_large_100")
    tagged = architectures.defaults("timm/mobilenetv3_large_100.miil_in21k")
    assert (plain.mean, plain.num_classes) == ((0.485, 0.456, 0.406), 1000)
    assert (tagged.mean, tagged.num_classes) == ((0.0, 0.0, 0.0), 11221)
    assert architectures.family("timm/resnet50.a1_in1k") == architectures.family("timm/resnet50") == "resnet"
    with pytest.raises(ArchitectureError, match=r"timm/resnet50\.a1_in1k"):
        architectures.defaults("timm/resnet50.no_such_tag")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("torchvision/vit_b_16", (3, 224, 192)),
        ("torchvision/vit_b_16", (3, 100, 100)),
        ("torchvision/maxvit_t", (3, 100, 100)),
    ],
)
def test_sizes_that_a_transformer_cannot_take(name: str, shape: tuple[int, int, int]) -> None:
    with pytest.raises(ArchitectureError) as caught:
        architectures.skeleton(name, input_shape=shape)
    assert caught.value.code == "invalid_input_shape"
