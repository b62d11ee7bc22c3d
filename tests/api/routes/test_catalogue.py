from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from core.spec import METHOD_CONFIGS
from tests.api.conftest import Api


def test_every_method_is_described(api: Api) -> None:
    page = api.http.get("/v1/methods").json()
    assert page["next"] is None
    assert {item["name"] for item in page["items"]} == set(METHOD_CONFIGS)
    for item in page["items"]:
        Draft202012Validator.check_schema(item["options"])
        options = Draft202012Validator(item["options"])
        assert options.is_valid({"name": item["name"]})
        assert not options.is_valid({"name": item["name"], "no_such_option": 1})
        assert item["summary"] and item["literature"]
        for values in item["presets"].values():
            assert set(values) <= set(item["options"]["properties"])
        assert item["default_preset"] is None or item["default_preset"] in item["presets"]


def test_every_architecture_can_be_named_in_an_upload(api: Api) -> None:
    items = {item["name"]: item for item in api.http.get("/v1/architectures").json()["items"]}
    assert {"cifar/resnet20", "torchvision/resnet18", "timm/tf_efficientnet_lite0"} <= items.keys()
    tagged = f"timm/resnet50.{items['timm/resnet50']['tags'][0]}"
    for name in (*list(items)[:3], list(items)[-1], tagged):
        assert api.upload(name.encode(), architecture=name)["architecture"] == name


def test_architectures_by_a_part_of_the_name(api: Api) -> None:
    items = api.http.get("/v1/architectures", params={"contains": "EfficientNet_lite"}).json()["items"]
    assert len(items) > 5 and all("efficientnet_lite" in item["name"] for item in items)
    assert api.http.get("/v1/architectures", params={"contains": "no such"}).json()["items"] == []


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("resnet50", "torchvision/resnet50 or timm/resnet50"),
        ("timm/resnet_50", "Did you mean timm/resnet50"),
        ("timm/resnet50.no_such_tag", "timm/resnet50.a1_in1k"),
        ("timm/vit_7b_patch16_dinov3", "left out: it has 6,716,030,976 parameters"),
        ("x" * 1000, "GET /v1/architectures lists all of them"),
    ],
)
def test_an_unknown_architecture_is_refused_with_advice(api: Api, name: str, advice: str) -> None:
    response = api.http.post("/v1/checkpoints", files={"file": b"weights"}, data={"architecture": name})
    assert response.status_code == 422
    assert advice in response.text
