"""The report's JSON Schema is published and current, and what is not finite becomes null."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from core.evaluate.report import (
    ArtifactReport,
    BitsReport,
    LatencyEntry,
    LatencyReport,
    LayerReport,
    MethodReport,
    NetworkReport,
    ParityReport,
    Report,
    SyntheticReport,
    TensorParityReport,
    VerificationReport,
    json_schema,
)

PUBLISHED = Path(__file__).parents[3] / "docs" / "report.schema.json"


def report() -> Report:
    """A report without an evaluation set."""
    entry = LatencyEntry(1.0, 2.0, 1.0, 5)
    parity = ParityReport(8, 3, 100, 1, 0.01, 1, [TensorParityReport("relu", 1, 50, 1)], 1e-7)
    return Report(
        network=NetworkReport("cifar/resnet8", 100, [3, 8, 8], 10, [0.5], [0.2]),
        bits=BitsReport({"weight": 4, "activation": 4}, 4.0, 8, 8, "8"),
        method=MethodReport("zaq", {}, 1, 1.0, "iterations", {"loss": 1.0}, [{"iteration": 0, "loss": 2.0}]),
        accuracy=None,
        agreement=None,
        dataset=None,
        synthetic=SyntheticReport(8, 99.0, None),
        artifact=ArtifactReport(10, 9, 40, "packed", "00", 21),
        latency=[LatencyReport(1, entry, entry, None, 1.0, None)],
        verification=VerificationReport(1.0, {}, 0, 0, parity),
        layers=[LayerReport("conv", "conv", [4, 3, 3, 3], 108, 1000, 4, 8, 60, "QLinearConv", 20.0, 15.0)],
        timings={"total": 1.23456789},
        provenance={"seed": 0},
    )


def validate(data: object) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(data)


def test_the_published_schema_is_current() -> None:
    """Made by `python -m core.evaluate.report > docs/report.schema.json`."""
    assert json.loads(PUBLISHED.read_text()) == json_schema()


def test_the_schema_is_one_and_names_itself() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json_schema()["title"] == "zsq report"
    assert {"accuracy", "bits", "layers", "artifact", "latency", "timings", "synthetic", "provenance"} <= set(
        json_schema()["required"]
    )


def test_a_report_follows_the_schema_and_is_plain_json() -> None:
    data = report().to_json()
    validate(data)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["version"] == "1"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null_and_still_follows_the_schema(value: float) -> None:
    whole = report()
    method = replace(whole.method, measures={"loss": value}, losses=[{"iteration": 0, "loss": value}])
    layer = replace(whole.layers[0], weight_sqnr_db=value, activation_sqnr_db=value)
    data = replace(whole, method=method, layers=[layer]).to_json()
    validate(data)
    assert data["method"]["measures"] == {"loss": None}
    assert data["method"]["losses"] == [{"iteration": 0, "loss": None}]
    assert data["layers"][0]["weight_sqnr_db"] is data["layers"][0]["activation_sqnr_db"] is None


def test_a_report_with_a_part_missing_does_not_follow_it() -> None:
    data = report().to_json()
    del data["artifact"]
    with pytest.raises(jsonschema.ValidationError):
        validate(data)
