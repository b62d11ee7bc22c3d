"""Which methods there are, by the name in their config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from torch import fx

from core.context import RunContext
from core.fake_quant.insert import Student
from core.methods import fast, gdfq, minmax, zaq, zeroq
from core.methods.base import Method, Summary
from core.spec import GdfqConfig, MethodConfig, ZaqConfig

METHODS: Mapping[str, Method[Any]] = {
    "fast": fast.run,
    "gdfq": gdfq.run,
    "minmax": minmax.run,
    "zaq": zaq.run,
    "zeroq": zeroq.run,
}


def run(teacher: fx.GraphModule, student: Student, config: MethodConfig, context: RunContext) -> Summary:
    """Runs the method that `config` is for; see `core.methods.base.Method`."""
    return METHODS[config.name](teacher, student, config, context)


def trains(config: MethodConfig) -> TypeGuard[GdfqConfig | ZaqConfig]:
    """Whether the method trains its student; the others round it as it is."""
    return isinstance(config, GdfqConfig | ZaqConfig)


def folds_bn(config: MethodConfig) -> bool:
    """Whether the method wants its student with batch normalization folded into the layers."""
    return config.resolved().fold_bn if trains(config) else True
