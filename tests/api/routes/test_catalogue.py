from __future__ import annotations

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
    items = api.http.get("/v1/architectures").json()["items"]
    assert {"cifar/resnet20", "torchvision/resnet18"} <= {item["name"] for item in items}
    for item in items[:3]:
        assert api.upload(item["name"].encode(), architecture=item["name"])["architecture"] == item["name"]
