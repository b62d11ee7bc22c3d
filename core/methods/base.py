"""What a method is: (teacher, student, config, context) -> summary, and the student is trained in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor, fx

from core.context import RunContext
from core.fake_quant.insert import Student
from core.networks.graph import shape_of

Config = TypeVar("Config", contravariant=True)


@dataclass(slots=True)
class Summary:
    """What a method did, for the report.

    `iterations` counts the method's own outer steps, `seconds` its whole duration. `losses` is a
    history of at most about 200 entries, each with its "iteration". `images` [N, C, H, W] are synthetic,
    normalized, on the CPU, and none of them was trained on; `labels` [N] the classes that they were made
    to be, where they were made to be any. `measures` are the method's own figures;
    `settings` is the config with every default filled in; `notes` are sentences for people.
    """

    iterations: int
    seconds: float
    stopped_by: Literal["iterations", "seconds", "no_progress", "calibrated"]
    images: Tensor
    labels: Tensor | None = None
    losses: list[dict[str, float]] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Method(Protocol[Config]):
    """Teacher (traced, eval mode) and student are on `context.device`, and end there.

    The student's ranges are set and frozen when the call returns. A method opens the phases
    "synthesizing" and "training" itself. Raises Stopped's and RunError's subclasses.
    """

    def __call__(
        self, teacher: fx.GraphModule, student: Student, config: Config, context: RunContext
    ) -> Summary: ...


def image_shape(teacher: fx.GraphModule) -> tuple[int, int, int]:
    """(C, H, W) of the images that the traced network takes."""
    placeholder = next(node for node in teacher.graph.nodes if node.op == "placeholder")
    shape = shape_of(placeholder)
    assert shape is not None and len(shape) == 4
    return shape[1], shape[2], shape[3]


def class_count(teacher: fx.GraphModule) -> int:
    """How many logits the traced network gives."""
    output = next(node for node in teacher.graph.nodes if node.op == "output")
    shape = shape_of(output.args[0])
    assert shape is not None and len(shape) == 2
    return shape[1]


def thinned(history: list[dict[str, float]], length: int = 200) -> list[dict[str, float]]:
    """Every n-th entry, and the last one."""
    stride = max(1, len(history) // length)
    return history[:-1:stride] + history[-1:]
