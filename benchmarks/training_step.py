"""How much of a training step is convolution?

    python benchmarks/training_step.py [--repeats 3] [--threads 2] [--output FILE]

For each of four steps, on ResNet-20 at 32 x 32 with random weights, w4a4: a ZAQ iteration of the paper
preset (batch 256, `scrm`, 5 student steps and 1 generator step), one of the service preset (batch 64,
`crm`), a GDFQ iteration of the paper preset (batch 200, 1 student step and 1 generator step), and an
iteration of distillation (batch 32). Beside it its bare convolutions: the same kernels on
the same shapes, channels last, forward and backward as often as the step needs each, without anything
between them. "As published" are all in float32, the generator's as 3 x 3 convolutions of the enlarged
image; "ours" as they run (`core.synthesis.upsampled`, `core.synthesis.precision`). Shares above 100 %
mean that the whole step is cheaper than the published convolutions alone.

Each step runs in a process of its own, so that its peak memory (RSS) is its own. The machine may do
other things meanwhile: processor seconds (all threads) stand beside wall seconds, and of the repeats the
cheapest counts.
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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import markdown
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from core.context import RunContext
from core.fake_quant.insert import build_student
from core.fake_quant.observers import MinMax
from core.methods.calibrate import calibrate
from core.methods.gdfq import Lesson
from core.methods.zaq import Game
from core.networks import architectures
from core.networks.graph import trace
from core.spec import BitSpec, GdfqConfig, ZaqConfig
from core.synthesis.conditional import build
from core.synthesis.distill import distill, frozen
from core.synthesis.generators import Generator
from core.synthesis.precision import reduced_precision
from core.synthesis.statistics import BatchNormStatistics
from core.synthesis.upsampled import UpsampledConv2d

STEPS = {
    "paper": "ZAQ, paper preset, batch 256",
    "service": "ZAQ, service preset, batch 64",
    "gdfq": "GDFQ, paper preset, batch 200",
    "distill": "distillation, batch 32",
}
SHAPE = (3, 32, 32)
Cost = tuple[float, float]  # wall seconds, processor seconds
Masks = dict[tuple[bool, bool], int]  # (gradient of the input, of the weight): how often


@dataclass(frozen=True, slots=True)
class Convolution:
    """One convolution of a network: what it reads, and how."""

    x_NCHW: Tensor
    w_OIHW: Tensor
    stride: int
    padding: int
    transposed: bool

    def forward(self) -> Tensor:
        run = F.conv_transpose2d if self.transposed else F.conv2d
        return run(self.x_NCHW, self.w_OIHW, stride=self.stride, padding=self.padding)

    def backward(self, grad: Tensor, mask: tuple[bool, bool]) -> None:
        stride, padding = [self.stride] * 2, [self.padding] * 2
        torch.ops.aten.convolution_backward(
            grad, self.x_NCHW, self.w_OIHW, None, stride, padding, [1, 1], self.transposed, [0, 0], 1,
            [*mask, False],
        )  # fmt: skip


def convolutions(
    network: nn.Module, *inputs: Tensor, published: bool, synthesis: bool = False
) -> list[Convolution]:
    """Those of one forward pass; `synthesis`: ours run them in reduced precision."""
    found: list[Convolution] = []
    with reduced_precision(network, inputs[0].device):
        reduced = synthesis and not published and torch.is_autocast_enabled("cpu")
    dtype = torch.bfloat16 if reduced else torch.float32

    def record(layer: nn.Conv2d, seen: tuple[Tensor, ...]) -> None:
        x_NCHW, w_OIHW = seen[0].detach().to(dtype), layer.weight.detach().to(dtype)
        if isinstance(layer, UpsampledConv2d) and published:
            x_NCHW = F.interpolate(x_NCHW, scale_factor=2.0)
        elif isinstance(layer, UpsampledConv2d):
            w_IOHW = torch.randn(layer.in_channels, layer.out_channels, 4, 4, dtype=dtype)
            w_IOHW = w_IOHW.contiguous(memory_format=torch.channels_last)
            found.append(Convolution(x_NCHW, w_IOHW, 2, 1, transposed=True))
            return
        w_OIHW = w_OIHW.contiguous(memory_format=torch.channels_last)
        assert isinstance(layer.padding, tuple)
        found.append(Convolution(x_NCHW, w_OIHW, layer.stride[0], layer.padding[0], transposed=False))

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    handles = [layer.register_forward_pre_hook(record) for layer in layers]
    with torch.no_grad():
        network(*inputs)
    for handle in handles:
        handle.remove()
    return found


def bare(layers: list[Convolution], forwards: int, backwards: Masks, repeats: int) -> Cost:
    """Every convolution by itself, as often as it is needed; the first one's input needs no gradient
    where only weights are trained."""
    wall = cpu = 0.0
    for index, layer in enumerate(layers):
        grad = torch.randn_like(layer.forward())
        costs = [(forwards, cost(layer.forward, repeats))]
        for (data, weight), times in backwards.items():
            mask = (data and (index > 0 or not weight), weight)
            costs.append((times, cost(lambda: layer.backward(grad, mask), repeats)))  # noqa: B023
        wall += sum(times * each[0] for times, each in costs)
        cpu += sum(times * each[1] for times, each in costs)
    return wall, cpu


def cost(run: Callable[[], object], repeats: int) -> Cost:
    """The cheapest of `repeats`, after one that allocates."""
    run()
    costs = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        costs.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(each[0] for each in costs), min(each[1] for each in costs)


def total(*costs: Cost) -> Cost:
    return sum(each[0] for each in costs), sum(each[1] for each in costs)


def measure(name: str, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        context = RunContext(Path(scratch), device=torch.device("cpu"))
        context.seed_everything()
        teacher = trace(architectures.build("cifar/resnet20"), SHAPE).requires_grad_(False)
        with step(teacher, name, context) as run:
            costs = cost(run, repeats)
        # Before the bare convolutions allocate anything.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        kernels = {key: bound(teacher, name, repeats, published=key == "published") for key in BOUNDS}
    return {"step": costs, **kernels, "peak": peak}


BOUNDS = ("published", "ours")


def step(
    teacher: fx.GraphModule, name: str, context: RunContext
) -> AbstractContextManager[Callable[[], object]]:
    if name == "distill":
        return distillation(teacher, context)
    return gdfq(teacher, context) if name == "gdfq" else zaq(teacher, name, context)


def bound(teacher: fx.GraphModule, name: str, repeats: int, *, published: bool) -> Cost:
    if name == "distill":
        x = torch.randn(32, *SHAPE).contiguous(memory_format=torch.channels_last)
        layers = convolutions(teacher, x, published=published, synthesis=True)
        return bare(layers, 1, {(True, False): 1}, repeats)
    if name == "gdfq":
        lesson = GdfqConfig(preset="paper").resolved()
        x = torch.randn(lesson.batch_size, *SHAPE).contiguous(memory_format=torch.channels_last)
        network = convolutions(teacher, x, published=published)
        generator = build(SHAPE, 10, lesson.latent_dim, lesson.generator, lesson.generator_eps)
        z, y = torch.randn(lesson.batch_size, lesson.latent_dim), torch.arange(lesson.batch_size) % 10
        return total(
            bare(network, 1, {(True, False): 1}, repeats),  # the teacher
            bare(network, 1, {(True, True): 1}, repeats),  # the student
            bare(convolutions(generator, z, y, published=published), 1, {(True, True): 1}, repeats),
        )
    settings = ZaqConfig(preset="paper" if name == "paper" else "service").resolved()
    steps, batch = settings.student_steps, settings.batch_size
    x = torch.randn(batch, *SHAPE).contiguous(memory_format=torch.channels_last)
    network = convolutions(teacher, x, published=published)
    noise_to_image = Generator(SHAPE, settings.latent_dim)
    z = torch.randn(batch, settings.latent_dim)
    drawn = convolutions(noise_to_image, z, published=published, synthesis=True)
    trained = convolutions(noise_to_image, z, published=published)
    return total(
        bare(network, steps + 1, {(True, False): 1}, repeats),  # the teacher
        bare(network, steps + 1, {(True, True): steps, (True, False): 1}, repeats),  # the student
        bare(drawn, steps, {}, repeats),
        bare(trained, 1, {(True, True): 1}, repeats),
    )


@contextmanager
def zaq(teacher: fx.GraphModule, preset: str, context: RunContext) -> Iterator[Callable[[], object]]:
    settings = ZaqConfig(preset="paper" if preset == "paper" else "service").resolved()
    student = build_student(teacher, BitSpec.parse("w4a4"), fold=settings.fold_bn)
    calibrate(student, torch.randn(64, *SHAPE), context)
    student.train(not settings.fold_bn)
    if settings.ranges == "widening":
        for quantizer in student.activation_quantizers().values():
            quantizer.observer = MinMax()
    with BatchNormStatistics(teacher) as statistics:
        yield Game(teacher, student, statistics, settings, context).iteration


@contextmanager
def gdfq(teacher: fx.GraphModule, context: RunContext) -> Iterator[Callable[[], object]]:
    settings = GdfqConfig(preset="paper").resolved()
    student = build_student(teacher, BitSpec.parse("w4a4"), fold=settings.fold_bn)
    calibrate(student, torch.randn(64, *SHAPE), context)
    with frozen(teacher), BatchNormStatistics(teacher, settings.statistics) as statistics:
        yield Lesson(teacher, student, statistics, settings, context).iteration


@contextmanager
def distillation(teacher: fx.GraphModule, context: RunContext) -> Iterator[Callable[[], object]]:
    """Twenty iterations at a time, since setting up is part of no iteration."""

    def run() -> None:
        distill(teacher, SHAPE, images=32, iterations=DISTILLED, context=context, batch_size=32)

    with frozen(teacher):
        yield run


DISTILLED = 20


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    head = ["step", "", "whole", "bare, as published", "share", "bare, ours", "share", "peak memory"]
    rows = []
    for name, result in results.items():
        scale = DISTILLED if name == "distill" else 1
        for index, clock in enumerate(("wall s", "processor s")):
            whole = result["step"][index] / scale
            published, ours = result["published"][index], result["ours"][index]
            label, memory = (STEPS[name], f"{result['peak'] / 2**30:.2f} GiB") if index == 0 else ("", "")
            pairs = [(f"{bound:.3f}", f"{bound / whole:.0%}") for bound in (published, ours)]
            rows.append([label, clock, f"{whole:.3f}", *pairs[0], *pairs[1], memory])
    return markdown.table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        torch.set_num_threads(arguments.threads)
        print(json.dumps(measure(arguments.only, arguments.repeats)))
        return
    loads, results = [os.getloadavg()[0]], {}
    for name in STEPS:
        command = [sys.executable, __file__, "--only", name]
        command += ["--repeats", str(arguments.repeats), "--threads", str(arguments.threads)]
        root = str(Path(__file__).parents[1])
        environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | {"PYTHONPATH": root}
        environment |= {"OMP_NUM_THREADS": str(arguments.threads)}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        results[name] = json.loads(done.stdout.splitlines()[-1])
        loads.append(os.getloadavg()[0])
        print(STEPS[name], results[name], flush=True)
    lines = [
        "# How much of a training step is convolution",
        "",
        f"`python benchmarks/training_step.py --repeats {arguments.repeats} --threads {arguments.threads}`, "
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{markdown.today()}; load average before and after each step: "
        f"{', '.join(f'{load:.1f}' for load in loads)}.",
        "",
        *table(results),
    ]
    print("\n".join(lines))
    if arguments.output:
        markdown.write(arguments.output, lines)


if __name__ == "__main__":
    main()
