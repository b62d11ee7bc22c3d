"""What a job may ask for, and what is refused with which words."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from core.spec import (
    GDFQ_PRESETS,
    METHOD_CONFIGS,
    PROFILES,
    ZAQ_PRESETS,
    ZEROQ_PRESETS,
    BitSpec,
    Budget,
    ExportConfig,
    GdfqConfig,
    GdfqSettings,
    LayerBits,
    MinMaxConfig,
    NetworkSpec,
    QuantizationSpec,
    ZaqConfig,
    ZaqSettings,
    ZeroqConfig,
    ZeroqSettings,
)


def spec(**given: Any) -> QuantizationSpec:
    return QuantizationSpec.from_json({"bits": "w4a4", **given})


@given(st.integers(2, 8), st.integers(2, 8))
def test_the_shorthand_of_bits(weight: int, activation: int) -> None:
    assert BitSpec.parse(f"w{weight}a{activation}") == BitSpec(weight, activation)
    assert BitSpec.parse(f" W{weight}A{activation} ") == BitSpec(weight, activation)


@pytest.mark.parametrize(
    "bits",
    [
        "w0a4", "w1a4", "w9a4", "w4a0", "w4a1", "w4a9", "w4", "a4",
        "four", "", "w4a4x", "w-4a4", "w4.5a4", 4, None,
        [], {}, {"weight": 4}, {"weight": "4", "activation": 4}, {"weight": True, "activation": 4},
        {"weight": 4.0, "activation": 4}, {"weight": 4, "activation": 4, "typo": 8},
        {"weight": 4, "activation": 4, "bias": 7}, {"weight": 4, "activation": 4, "bias": 33},
        {"weight": 4, "activation": 4, "residual": 4}, {"weight": 4, "activation": 4, "first_last": 9},
        {"weight": 4, "activation": 4, "overrides": {"a": {"weight": 1}}},
        {"weight": 4, "activation": 4, "overrides": {"a": {"weights": 4}}},
    ],
)  # fmt: skip
def test_bits_that_are_refused(bits: Any) -> None:
    with pytest.raises(ValidationError):
        spec(bits=bits)


def test_refusals_name_the_place() -> None:
    with pytest.raises(ValidationError) as caught:
        spec(bits={"weight": 9, "activation": 4})
    assert caught.value.errors()[0]["loc"][:2] == ("bits", "weight")
    with pytest.raises(ValidationError, match='must look like "w4a8"'):
        spec(bits="four")


@pytest.mark.parametrize(
    "given",
    [
        {"method": "gptq"},
        {"method": {"name": "gptq"}},
        {"method": {}},
        {"method": 3},
        {"method": {"name": "minmax", "iterations": True}},
        {"method": {"name": "minmax", "preset": "paper"}},
        {"method": {"name": "zaq", "budget": {}}},
        {"method": {"name": "zaq", "budget": {"iterations": 5, "seconds": 5}}},
        {"method": {"name": "zaq", "budget": {"iterations": 0}}},
        {"method": {"name": "zaq", "student_lr": 0}},
        {"method": {"name": "zaq", "student_lr": float("nan")}},
        {"method": {"name": "zaq", "alpha": float("inf")}},
        {"method": {"name": "zaq", "fold_bn": False}},
        {"method": {"name": "zaq", "ranges": "widening"}},
        {"method": {"name": "gdfq", "ranges": "average"}},
        {"method": {"name": "gdfq", "preset": "paper", "start": "fast"}},
        {"export": {"profile": "tflite"}},
        {"seed": -1},
        {"seed": 1.5},
        {"seed": 2**31},
        {"limits": {"seconds": 0}},
        {"unknown": 1},
    ],
)
def test_jobs_that_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**given)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_can_be_asked_for(profile: str) -> None:
    export = spec(bits="w3a8", export={"profile": profile}).export
    assert export.profile == profile
    assert export.grids is PROFILES[profile].grids
    assert spec(bits="w3a8", export=profile).export == export


def test_the_profiles_are_those_that_the_config_names() -> None:
    (schema,) = (TypeAdapter(ExportConfig).json_schema()["properties"]["profile"],)
    assert schema["enum"] == list(PROFILES)
    assert schema["default"] == next(iter(PROFILES))


@pytest.mark.parametrize(
    ("bits", "where"),
    [
        ("w8a4", "bits.activation is 4"),
        (
            {"weight": 8, "activation": 8, "overrides": {"layer1.*": {"activation": 6}}},
            "bits.overrides.layer1.*.activation is 6",
        ),
    ],
)
def test_narrow_activations_are_refused_where_the_profile_has_none(bits: Any, where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(bits=bits, export={"profile": "tensorrt"})
    (error,) = caught.value.errors()
    assert (error["loc"], error["type"]) == (("export",), "narrow_activations")
    assert where in error["msg"]
    for profile in set(PROFILES) - {"tensorrt"}:
        spec(bits=bits, export={"profile": profile})


def test_narrow_weights_and_wide_overrides_fit_every_profile() -> None:
    bits = {"weight": 2, "activation": 8, "overrides": {"a": {"weight": 5}, "b": {"activation": 8}}}
    assert spec(bits=bits, export={"profile": "tensorrt"}).bits.weight == 2


@pytest.mark.parametrize(
    "method",
    [
        {"name": "zaq", "alpha": 1e300},
        {"name": "zaq", "student_lr": 1e7},
        {"name": "zaq", "budget": {"iterations": 10**19}},
        {"name": "zaq", "budget": {"seconds": 1e308}},
        {"preset": "paper"},
    ],
)
def test_options_that_can_only_be_slips_are_refused(method: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(method=method)


def test_an_unknown_method_is_told_which_there_are() -> None:
    with pytest.raises(ValidationError, match="gdfq, minmax, zaq, zeroq"):
        spec(method="gptq")


def test_a_job_without_a_method_runs_zaq_at_its_service_preset() -> None:
    assert spec().method == ZaqConfig()
    assert ZaqConfig().preset == "service"
    assert spec(method="zaq").method == spec(method={"name": "zaq"}).method == ZaqConfig()
    assert spec(method="minmax").method == MinMaxConfig()


@pytest.mark.parametrize("preset", ["service", "paper"])
def test_a_preset_sets_everything_and_options_overrule_it(preset: str) -> None:
    assert set(ZAQ_PRESETS[preset]) == {f.name for f in fields(ZaqSettings)} - {"preset"}
    config = spec(method={"name": "zaq", "preset": preset, "alpha": 0.0, "budget": {"seconds": 9}}).method
    assert isinstance(config, ZaqConfig)
    settings = config.resolved()
    assert settings.preset == preset
    assert settings.alpha == 0.0
    assert settings.budget == Budget(seconds=9)
    assert settings.batch_size == ZAQ_PRESETS[preset]["batch_size"]


@pytest.mark.parametrize("preset", ["service", "paper"])
def test_gdfqs_presets_set_everything(preset: str) -> None:
    assert set(GDFQ_PRESETS[preset]) == {f.name for f in fields(GdfqSettings)} - {"preset"}
    config = spec(method={"name": "gdfq", "preset": preset, "ce_weight": 0, "inundation": 0.001}).method
    assert isinstance(config, GdfqConfig)
    settings = config.resolved()
    assert (settings.ce_weight, settings.inundation) == (0.0, 0.001)
    assert settings.temperature == GDFQ_PRESETS[preset]["temperature"]


@pytest.mark.parametrize("preset", ["service", "paper"])
def test_zeroqs_presets_set_everything(preset: str) -> None:
    assert set(ZEROQ_PRESETS[preset]) == {f.name for f in fields(ZeroqSettings)} - {"preset"}
    config = spec(method={"name": "zeroq", "preset": preset, "images": 7}).method
    assert isinstance(config, ZeroqConfig)
    assert config.resolved().images == 7
    assert config.resolved().ranges == ZEROQ_PRESETS[preset]["ranges"]


def test_what_was_asked_comes_back_from_json_as_it_was() -> None:
    asked = spec(
        bits={
            "weight": 3,
            "activation": 4,
            "residual": "shared",
            "overrides": {"b*": {"weight": 8}, "a": {}},
        },
        method={"name": "zaq", "preset": "paper", "budget": {"iterations": 7}},
        seed=5,
        limits={"seconds": 60},
    )
    data = json.loads(json.dumps(asked.to_json()))
    assert QuantizationSpec.from_json(data) == asked
    assert list(data["bits"]["overrides"]) == ["b*", "a"]  # the order decides which wins


def test_of_several_overrides_the_last_one_wins_width_by_width() -> None:
    bits = BitSpec(
        4,
        4,
        overrides={
            "layer*": LayerBits(weight=3, activation=5),
            "layer1": LayerBits(weight=8),
            "x": LayerBits(2, 2),
        },
    )
    assert bits.for_layer("layer1") == LayerBits(8, 5)
    assert bits.for_layer("layer2") == LayerBits(3, 5)
    assert bits.for_layer("other") == LayerBits()


def test_globs_tell_upper_from_lower_case() -> None:
    assert BitSpec(4, 4, overrides={"Layer": LayerBits(weight=3)}).for_layer("layer") == LayerBits()


@pytest.mark.parametrize(
    "given",
    [
        {"mean": [0.5, 0.5], "input_shape": [3, 8, 8]},
        {"std": [0.5, 0.0, 0.5]},
        {"input_shape": [3, 8]},
        {"input_shape": [3, 0, 8]},
        {"num_classes": 0},
        {"num_classes": True},
        {"classes": []},
        {"classes": ["cat", ""]},
        {"classes": ["c" * 256]},
        {"classes": ["cat", 2]},
        {"classes": ["cat", "dog"], "num_classes": 3},
        {"layers": 3},
    ],
)
def test_networks_that_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NetworkSpec.from_json({"architecture": "cifar/resnet20", **given})


def test_a_network_comes_back_from_json_as_it_was() -> None:
    network = NetworkSpec("cifar/resnet20", 10, (3, 32, 32), (0.5,), (0.2, 0.3, 0.4), tuple("abcdefghij"))
    assert NetworkSpec.from_json(json.loads(json.dumps(network.to_json()))) == network


@pytest.mark.parametrize("name", METHOD_CONFIGS)
def test_every_method_has_a_json_schema_that_refuses_extras(name: str) -> None:
    config = METHOD_CONFIGS[name]
    schema = TypeAdapter(config).json_schema()
    assert schema["additionalProperties"] is False
    assert schema["properties"]["name"]["const"] == name
    assert config().name == name


def test_the_specification_is_free_of_torch() -> None:
    code = "import sys, core.spec, core.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
