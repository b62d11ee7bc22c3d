"""What tests of methods that train have in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from core.context import RunContext
from core.fake_quant.insert import Student, build_student
from core.spec import ANY_GRID, BitSpec, Budget, GdfqConfig, GridStyle, ZaqConfig

TrainedConfig = GdfqConfig | ZaqConfig

ZAQ = ZaqConfig(budget=Budget(iterations=3), batch_size=8, latent_dim=8, warmup_iterations=2)
ZAQ_PAPER = replace(ZAQ, preset="paper", student_lr=0.01)
GDFQ = GdfqConfig(
    budget=Budget(iterations=3), batch_size=8, latent_dim=8, warmup_iterations=2, distilled_images=16
)
GDFQ_PAPER = replace(GDFQ, preset="paper")


def context(tmp_path: Path, **options: Any) -> RunContext:
    return RunContext(tmp_path, device=torch.device("cpu"), **options)


def student_of(
    teacher: fx.GraphModule,
    config: TrainedConfig = GDFQ,
    bits: str = "w3a3",
    grids: GridStyle = ANY_GRID,
) -> Student:
    return build_student(teacher, BitSpec.parse(bits), grids, fold=config.resolved().fold_bn)


def state(student: Student) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in student.state_dict().items()}
