"""What does one iteration of ZAQ cost, and where does the time go?

    python benchmarks/zaq_step.py [--repeats 2] [--output FILE]

One iteration is 5 student steps and 1 generator step on ResNet-20 at 32 x 32, random weights, w4a4.
Two runs, each in a process of its own so that its peak memory (RSS) is its own: the paper preset
(batch 256, `scrm`) and the service preset (batch 64, `crm`). Every run times the whole iteration, then
each part by itself, forward and backward as often as an iteration needs them; the rest is optimizers,
losses and what the parts cost each other. Processor seconds (all threads) are told beside wall seconds,
since they are the same on a machine that does other things meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import markdown
import torch
from torch import Tensor
from torch.nn import functional as F

from core.context import RunContext
from core.fake_quant.insert import build_student
from core.fake_quant.observers import MinMax
from core.methods.calibrate import calibrate
from core.methods.zaq import Game
from core.networks import architectures
from core.networks.graph import trace
from core.spec import BitSpec, ZaqConfig
from core.synthesis.statistics import BatchNormStatistics

RUNS = {
    "paper": "paper preset (batch 256, scrm)",
    "service": "service preset (batch 64, crm)",
}
PARTS = ("generator", "teacher", "student", "discrepancy")
Cost = tuple[float, float]  # wall seconds, processor seconds


def cost(run: Callable[[], object], repeats: int) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats


def measure(name: str, repeats: int) -> dict[str, object]:
    """Runs in a fresh process: costs by part, and the peak memory in bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        context = RunContext(Path(scratch), device=torch.device("cpu"))
        context.seed_everything()
        settings = ZaqConfig(preset="service" if name == "service" else "paper").resolved()
        teacher = trace(architectures.build("cifar/resnet20"), (3, 32, 32)).requires_grad_(False)
        student = build_student(teacher, BitSpec.parse("w4a4"), fold=settings.fold_bn)
        calibrate(student, torch.randn(64, 3, 32, 32), context)
        student.train(not settings.fold_bn)
        with ExitStack() as stack:
            if settings.ranges == "widening":
                stack.enter_context(student.observing(MinMax))
            statistics = stack.enter_context(BatchNormStatistics(teacher))
            statistics.enabled = False
            game = Game(teacher, student, statistics, settings, context)
            game.iteration()  # the first iteration allocates
            costs = {"iteration": cost(game.iteration, repeats), **parts(game, repeats)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"costs": costs, "peak": peak}


def parts(game: Game, repeats: int) -> dict[str, Cost]:
    """Each part's share of one iteration: 5 times as a student step needs it, once as the generator's."""
    steps = game.settings.student_steps
    images = game.images().detach().requires_grad_()
    wanted, found = game.run_teacher(images), game.run_student(images)
    target = [f.detach() for f in wanted[1]]
    features = [f.detach().requires_grad_() for f in found[1]]
    sources = [f.detach().requires_grad_() for f in wanted[1]]

    def total(outputs: tuple[Tensor, Sequence[Tensor]]) -> Tensor:
        return outputs[0].sum() + torch.stack([f.sum() for f in outputs[1]]).sum()

    def generator() -> None:
        for _ in range(steps):
            with torch.no_grad():
                game.images()
        game.images().sum().backward()

    def teacher() -> None:
        for _ in range(steps):
            with torch.no_grad():
                game.run_folded_teacher(images)
        if not game.settings.bn_weight:
            total(game.run_folded_teacher(images)).backward()
            return
        game.statistics.enabled = True
        loss = total(game.run_teacher(images))
        distance = game.statistics.loss()
        assert distance is not None
        (loss + distance).backward()
        game.statistics.enabled = False

    def student() -> None:
        for _ in range(steps):
            total(game.run_student(images.detach())).backward()
        total(game.run_student(images)).backward()

    def distance() -> None:
        assert game.discrepancy is not None
        for _ in range(steps):
            game.discrepancy(target, features).backward()
        (game.discrepancy(sources, features) + F.l1_loss(found[0].detach(), wanted[0].detach())).backward()

    runs = dict(zip(PARTS, (generator, teacher, student, distance), strict=True))
    return {part: cost(run, repeats) for part, run in runs.items()}


def table(results: dict[str, dict[str, object]]) -> list[str]:
    rows = []
    for name, result in results.items():
        costs, peak = result["costs"], result["peak"]
        assert isinstance(costs, dict) and isinstance(peak, int)
        for index, clock in enumerate(("wall s", "processor s")):
            values = [costs[key][index] for key in ("iteration", *PARTS)]
            values.append(values[0] - sum(values[1:]))
            label, memory = (RUNS[name], f"{peak / 2**30:.1f} GiB") if index == 0 else ("", "")
            rows.append([label, clock, *(f"{value:.2f}" for value in values), memory])
    return markdown.table(["run", "", "iteration", *PARTS, "rest", "peak memory"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", choices=RUNS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.repeats)))
        return
    results = {}
    load = os.getloadavg()[0]
    for name in RUNS:
        command = [sys.executable, __file__, "--only", name, "--repeats", str(arguments.repeats)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        results[name] = json.loads(done.stdout.splitlines()[-1])
        print(RUNS[name], results[name], flush=True)
    hardware = f"{platform.machine()}-{os.cpu_count()}core"
    lines = [
        "# Seconds per ZAQ iteration",
        "",
        f"`python benchmarks/zaq_step.py --repeats {arguments.repeats}`, {hardware}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {markdown.today()}; "
        f"load average {load:.1f} before.",
        "One iteration: 5 student steps and 1 generator step, ResNet-20, 32 x 32, w4a4.",
        "",
        *table(results),
    ]
    markdown.write(arguments.output or markdown.page("zaq_step", hardware), lines)


if __name__ == "__main__":
    main()
