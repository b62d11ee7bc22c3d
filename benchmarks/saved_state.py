"""What saving a training costs: the state's size, and the time to write and read it beside an iteration's.

    python benchmarks/saved_state.py [--threads 1]

Random weights and next to no preparation: neither changes what is saved, nor how long an iteration takes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import markdown
import torch

from core.context import Progress, RunContext
from core.errors import HandedBack
from core.fake_quant.insert import build_student
from core.methods import prepare, registry, saved_state
from core.networks import architectures
from core.networks.graph import trace
from core.pipeline import channels_last
from core.spec import BitSpec, GdfqConfig, ZaqConfig

CIFAR, IMAGENET = ("cifar/resnet20", 10, (3, 32, 32)), ("torchvision/mobilenet_v2", 1000, (3, 224, 224))
RUNS = (
    (CIFAR, ZaqConfig(warmup_iterations=1)),
    (CIFAR, GdfqConfig(warmup_iterations=1)),
    (IMAGENET, ZaqConfig(warmup_iterations=1, batch_size=8)),
    (IMAGENET, GdfqConfig(warmup_iterations=1, batch_size=8)),
)
ITERATIONS = 4


def seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Of the fastest."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def measure(
    name: str, classes: int, shape: tuple[int, int, int], config: ZaqConfig | GdfqConfig, scratch: Path
) -> dict[str, object]:
    torch.manual_seed(0)
    network = architectures.build(name, classes, shape[0]).eval()
    teacher = trace(network, shape).requires_grad_(False)
    student = build_student(teacher, BitSpec.parse("w4a4"))
    for part in (teacher, student):
        channels_last(part)
    whose = saved_state.identity(config.resolved(), student, seed=0)
    steps: list[float] = []
    kept: list[Path] = []

    def emit(news: Progress) -> None:
        if news.phase == "training":
            steps.append(time.perf_counter())

    context = RunContext(scratch, device=torch.device("cpu"), emit=emit, interval=0.0, keep=kept.append)
    context.hand_back = lambda: len(steps) > ITERATIONS
    with suppress(HandedBack):
        registry.run(teacher, student, config, context)
    iteration = min(after - before for before, after in pairwise(steps[1:]))
    state = saved_state.read(kept[-1], whose)
    write = seconds(lambda: saved_state.write(scratch, whose, state).unlink())
    read = seconds(lambda: saved_state.read(kept[-1], whose))
    return {
        "network": name,
        "method": config.name,
        "batch": config.resolved().batch_size,
        "MB": round(kept[-1].stat().st_size / 1e6, 1),
        "write, s": round(write, 3),
        "read, s": round(read, 3),
        "iteration, s": round(iteration, 2),
        "share of two iterations, %": round(100 * write / (2 * iteration + write), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    prepare._ITERATIONS = 1
    rows = []
    for (name, classes, shape), config in RUNS:
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(measure(name, classes, shape, config, Path(scratch)))
        print(rows[-1], flush=True)
    print("\n".join(markdown.records(rows)))


if __name__ == "__main__":
    main()
