"""The calls of core that a child may be ordered to make: plain data in, plain data out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from core.context import RunContext
from core.pipeline import CheckpointInput, DatasetInput
from core.pipeline import inspect_checkpoint as core_inspect_checkpoint
from core.pipeline import inspect_dataset as core_inspect_dataset
from core.pipeline import quantize as core_quantize
from core.spec import NetworkSpec, QuantizationSpec


def quantize(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """-> {"report": {...}, "artifacts": [{"name", "path", "media_type"}]}; files under payload["output"]."""
    dataset = payload["dataset"]
    result = core_quantize(
        _checkpoint(payload["checkpoint"]),
        None if dataset is None else _dataset(dataset),
        QuantizationSpec.from_json(payload["spec"]),
        Path(payload["output"]),
        context,
    )
    return {
        "report": result.report,
        "artifacts": [
            {"name": file.name, "path": str(file.path), "media_type": file.media_type}
            for file in result.artifacts
        ],
    }


def inspect_checkpoint(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    return core_inspect_checkpoint(_checkpoint(payload))


def inspect_dataset(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    return core_inspect_dataset(_dataset(payload))


def gpus(payload: dict[str, Any], context: RunContext) -> dict[str, Any]:
    """-> {"gpus": [unique id, ...]}, in CUDA's order."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {"gpus": [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]}


def _checkpoint(data: dict[str, Any]) -> CheckpointInput:
    return CheckpointInput(Path(data["path"]), data["sha256"], NetworkSpec.from_json(data["network"]))


def _dataset(data: dict[str, Any]) -> DatasetInput:
    return DatasetInput(Path(data["path"]), data["sha256"], data["classes"])
