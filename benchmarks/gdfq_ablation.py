"""What does each term of GDFQ contribute? Short runs that leave out one at a time.

    python benchmarks/gdfq_ablation.py --data FOLDER [--bits w4a4] [--seeds 0 1] [--write] [VARIANT ...]

CIFAR-10 ResNet-20 from a folder of real checkpoints and images (see `artifacts.REAL`), the service preset
at a fraction of its budget, from weights rounded to nearest, where the lesson has most to do (and with the
temperature and learning rate that suit it there): top-1 on the images, agreement with float32 on
them, and what can be seen without data: how many of the generator's images the teacher takes for the
class they were made to be, and their distance from its batch-normalization statistics.
Writes benchmarks/gdfq_ablation_<hardware>_<date>.md.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import markdown
import torch
from artifacts import REAL
from torch import Tensor

from core.context import RunContext
from core.evaluate import datasets, metrics
from core.fake_quant.insert import build_student
from core.methods import registry
from core.networks.graph import trace
from core.networks.inspect import load_network
from core.pipeline import channels_last
from core.spec import BitSpec, Budget, GdfqConfig

SHORT = GdfqConfig(
    budget=Budget(iterations=15),
    warmup_iterations=50,
    distilled_images=64,
    start="nearest",
    temperature=20.0,
    student_lr=1e-2,
)
VARIANTS = {
    "service": SHORT,
    "no-bns": replace(SHORT, bn_weight=0.0),
    "kl-and-ce": replace(SHORT, ce_weight=1.0),
    "ce-alone": replace(SHORT, ce_weight=1.0, kl_weight=0.0),
    "no-distilled": replace(SHORT, distilled_images=0),
    "product": replace(SHORT, generator="product"),
    "inundation": replace(SHORT, inundation=1e-3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bits", default="w4a4")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    real = REAL["cifar/resnet20"]
    loaded = load_network(arguments.data / real.checkpoint, real.spec)
    teacher = trace(loaded.network, loaded.input_shape)
    channels_last(teacher)
    dataset = datasets.open_dataset(arguments.data / real.images)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return dataset.batches(loaded.input_shape, loaded.mean, loaded.std, 100)

    with torch.no_grad():
        float32, wanted = metrics.measure(teacher, batches())
    rows: list[dict[str, object]] = []
    for name in arguments.variants:
        config = VARIANTS[name]
        for seed in arguments.seeds:
            student = build_student(teacher, BitSpec.parse(arguments.bits))
            channels_last(student)
            began = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                context = RunContext(Path(folder), seed=seed, device=torch.device("cpu"))
                summary = registry.run(teacher, student, config, context)
            seconds = time.process_time() - began
            with torch.no_grad():
                found, classes = metrics.measure(student.eval(), batches())
            rows.append(
                {
                    "variant": name,
                    "seed": seed,
                    "correct": found.correct,
                    "below float32, points": f"{float32.top1 - found.top1:.2f}",
                    "agreement %": f"{metrics.agreement(classes, wanted):.2f}",
                    "recognized %": f"{summary.measures['recognized']:.1f}",
                    "BN statistics": f"{summary.measures['bn_statistics']:.3f}",
                    "processor seconds": round(seconds),
                }
            )
            print(" | ".join(str(value) for value in rows[-1].values()), flush=True)
    if arguments.write:
        write(rows, arguments.bits, float32)


def write(rows: list[dict[str, object]], bits: str, float32: metrics.Accuracy) -> None:
    machine = platform.machine()
    lines = [
        f"# Terms of GDFQ: CIFAR-10 ResNet-20, {bits}, 15 iterations",
        "",
        f"{machine}, {markdown.today()}. float32: {float32.correct} of {float32.total}.",
        "The service preset with 15 instead of 40 iterations, 50 instead of 100 of warm-up, 64 instead of",
        "256 distilled images; from weights rounded to nearest, at temperature 20 and learning rate .01.",
        "Ranges are calibrated on distilled images in every variant.",
        "",
        *markdown.records(rows),
    ]
    markdown.write(markdown.page("gdfq_ablation", machine), lines)


if __name__ == "__main__":
    main()
