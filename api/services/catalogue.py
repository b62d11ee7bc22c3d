"""What can be asked for: methods with the schema of their options, and architectures."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from core.networks import catalogue
from core.spec import GDFQ_PRESETS, METHOD_CONFIGS, ZAQ_PRESETS, ZEROQ_PRESETS


@dataclass(frozen=True, slots=True)
class Paper:
    title: str
    arxiv: str


_LITERATURE = {
    "fast": [
        Paper(
            "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", "2210.17323"
        ),
        Paper("SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", "2202.07471"),
        Paper("Data-Free Quantization Through Weight Equalization and Bias Correction", "1906.04721"),
    ],
    "gdfq": [
        Paper("Generative Low-bitwidth Data Free Quantization", "2003.03603"),
        Paper("It's All In the Teacher: Zero-Shot Quantization Brought Closer to the Teacher", "2203.17008"),
    ],
    "minmax": [Paper("ZeroQ: A Novel Zero Shot Quantization Framework", "2001.00281")],
    "zaq": [Paper("Zero-shot Adversarial Quantization", "2103.15263")],
    "zeroq": [Paper("ZeroQ: A Novel Zero Shot Quantization Framework", "2001.00281")],
}
_PRESETS = {"gdfq": GDFQ_PRESETS, "zaq": ZAQ_PRESETS, "zeroq": ZEROQ_PRESETS}


@cache
def methods() -> list[dict[str, Any]]:
    """name, summary, options (JSON Schema), presets, default_preset, literature."""
    return [_method(name) for name in METHOD_CONFIGS]


def _method(name: str) -> dict[str, Any]:
    config = METHOD_CONFIGS[name]
    presets = {
        preset: json.loads(TypeAdapter(dict[str, Any]).dump_json(dict(values)))
        for preset, values in _PRESETS.get(name, {}).items()
    }
    return {
        "name": name,
        "summary": (inspect.getdoc(config) or "").partition("\n")[0],
        "options": TypeAdapter(config).json_schema(),
        "presets": presets,
        "default_preset": "service" if presets else None,
        "literature": [
            {"title": paper.title, "arxiv": paper.arxiv, "url": f"https://arxiv.org/abs/{paper.arxiv}"}
            for paper in _LITERATURE[name]
        ],
    }


def architectures(contains: str) -> list[dict[str, Any]]:
    """Those with `contains` in their names, in upper or lower case."""
    return [entry for entry in catalogue.load() if contains.lower() in entry["name"]]
