"""Networks × bits: does the file run in integers, compute what the student does, weigh what it should?

    python benchmarks/artifacts.py [--bits w8a8 w4a4 ...] [--write] [NAME ...]
    python benchmarks/artifacts.py --data FOLDER [--bits ...] [--write] [NAME ...]

`minmax` at small inputs and random weights (batch normalization fitted to noise). For each file, in
ONNX Runtime at default settings: the share of multiply-accumulates in integer kernels, float
operators and conversions left between them, the largest step between an operator of the file and
the student's given identical integer inputs, and the file's size against its bound, 1.03 × ideal +
500 bytes a layer. With `--data`, a folder of real checkpoints and images (see `REAL`): top-1 of
student and file on these images, and how often the two agree.
Writes benchmarks/artifacts_<hardware>_<date>.md, or artifacts_agreement_….
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import markdown
import onnx
import torch
from architectures import sane

from core.context import RunContext
from core.evaluate import datasets, metrics
from core.export.integer import IntegerStudent
from core.export.onnx import Exported, export_student
from core.export.packing import ideal_bytes
from core.export.parity import compare
from core.export.realized import realized_precision
from core.export.session import open_session, run
from core.fake_quant.insert import Student, build_student
from core.methods import registry
from core.networks import architectures
from core.networks.graph import trace
from core.networks.inspect import LoadedNetwork, load_network
from core.networks.macs import layer_macs, product_macs
from core.pipeline import baseline_config
from core.reporting import stored
from core.spec import BitSpec, MinMaxConfig, NetworkSpec

BITS = ["w8a8", "w4a8", "w4a4", "w6a6", "w3a8", "w2a8"]
NETWORKS = {
    "cifar/resnet20": 32,
    "cifar/resnet56": 32,
    "torchvision/resnet18": 64,
    "torchvision/resnet50": 64,
    "torchvision/vgg16_bn": 64,
    "torchvision/mobilenet_v2": 64,
    "torchvision/mobilenet_v3_large": 64,
    "torchvision/mobilenet_v3_small": 64,
    "timm/tf_efficientnet_lite0": 64,
    "torchvision/efficientnet_b0": 64,
    "torchvision/regnet_x_400mf": 64,
    "torchvision/regnet_y_400mf": 64,
    "torchvision/shufflenet_v2_x1_0": 64,
    "torchvision/densenet121": 64,
    "torchvision/googlenet": 64,
    "torchvision/inception_v3": 96,
}


@dataclass(frozen=True)
class Real:
    """A checkpoint and images with labels, relative to the data folder."""

    checkpoint: str
    images: str
    spec: NetworkSpec


_IMAGENET_STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
REAL = {
    "cifar/resnet20": Real(
        "cifar10/resnet20_cifar10.pt",
        "cifar10/test_lossless_1017.npz",
        NetworkSpec("cifar/resnet20", **_IMAGENET_STATISTICS),
    ),
    "cifar/resnet56": Real(
        "cifar10/resnet56_cifar10.pt",
        "cifar10/test_lossless_1017.npz",
        NetworkSpec("cifar/resnet56", **_IMAGENET_STATISTICS),
    ),
    "torchvision/mobilenet_v2": Real(
        "imagenet/mobilenet_v2-b0353104.pth",
        "imagenet/val1000_227.tar",
        NetworkSpec("torchvision/mobilenet_v2"),
    ),
    "timm/tf_efficientnet_lite0": Real(
        "imagenet/efficientnet_lite0_timm.pt",
        "imagenet/val1000_227.tar",
        NetworkSpec("timm/tf_efficientnet_lite0", **_HALF),
    ),
}


def made(
    network: torch.nn.Module,
    shape: tuple[int, int, int],
    classes: int,
    bits: str,
    config: MinMaxConfig,
    scratch: Path,
) -> tuple[Student, Exported]:
    """Student and file of `minmax`, seed 0."""
    teacher = trace(network, shape)
    student = build_student(teacher, BitSpec.parse(bits)).eval()
    context = RunContext(scratch, device=torch.device("cpu"))
    registry.run(teacher, student, config, context)
    exported = export_student(student, shape, classes, {})
    onnx.save(exported.model, scratch / "model.onnx")
    return student, exported


def check(name: str, side: int, bits: str, scratch: Path) -> dict[str, object]:
    torch.manual_seed(0)
    shape = (3, side, side)
    network = sane(architectures.build(name, num_classes=10, input_shape=shape), shape)
    student, exported = made(network, shape, 10, bits, MinMaxConfig(images=8, iterations=4), scratch)
    path = scratch / "model.onnx"
    parity = compare(student, exported, torch.randn(4, *shape))
    realized = realized_precision(path, layer_macs(student.graph), product_macs(student.graph), scratch)
    layers = student.layers()
    ideal = ideal_bytes(stored(layer) for layer in layers.values())
    size, bound = path.stat().st_size, 1.03 * ideal + 500 * len(layers)
    floats = ", ".join(f"{kind} ×{entry['count']}" for kind, entry in realized.float_operators.items())
    return {
        "network": name,
        "bits": bits,
        "integer MACs %": f"{100 * realized.integer_share:.2f}",
        "float operators": floats or "none",
        "conversions": realized.conversions,
        "largest step": parity.largest_step,
        "differ, ppm": f"{1e6 * parity.different_share:.1f}",
        "bytes": f"{size:,}",
        "of ideal": f"{size / ideal:.3f}",
        "of bound": f"{size / bound:.3f}",
    }


def agree(name: str, bits: str, data: Path, scratch: Path) -> dict[str, object]:
    real = REAL[name]
    loaded: LoadedNetwork = load_network(data / real.checkpoint, real.spec)
    dataset = datasets.open_dataset(data / real.images)
    config = baseline_config(loaded.input_shape)
    student, _ = made(loaded.network, loaded.input_shape, loaded.num_classes, bits, config, scratch)
    integers = IntegerStudent(student)
    session = open_session(scratch / "model.onnx")

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return dataset.batches(loaded.input_shape, loaded.mean, loaded.std, 50)

    simulated, classes = metrics.measure(integers, batches())
    measured, file_classes = metrics.measure(lambda x: run(session, x), batches())
    return {
        "network": name,
        "bits": bits,
        "images": simulated.total,
        "student, correct": simulated.correct,
        "file, correct": measured.correct,
        "difference, points": f"{abs(simulated.top1 - measured.top1):.2f}",
        "agreement %": f"{metrics.agreement(file_classes, classes):.2f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--bits", nargs="*", default=BITS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    real = arguments.data is not None
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names or (REAL if real else NETWORKS):
            for bits in arguments.bits:
                if real:
                    rows.append(agree(name, bits, arguments.data, Path(folder)))
                else:
                    rows.append(check(name, NETWORKS[name], bits, Path(folder)))
                print(" | ".join(str(value) for value in rows[-1].values()), flush=True)
    if arguments.write:
        write(rows, real)


FILES = [
    "# Artifacts: networks × bits, `minmax`, profile `packed`",
    "",
    "Random weights. `largest step` and `differ` compare every operator of the file with the fake-quantized",
    "student's, given identical integer inputs; `bound` is 1.03 × ideal + 500 bytes a layer.",
]
AGREEMENT = [
    "# File and student on real images: real checkpoints, `minmax`, profile `packed`",
    "",
    "The student is evaluated in integers (core/export/integer.py), the file in ONNX Runtime.",
]


def write(rows: list[dict[str, object]], real: bool) -> None:
    machine = platform.machine()
    head = [*(AGREEMENT if real else FILES), "", f"{machine}, {markdown.today()}.", ""]
    page = markdown.page("artifacts_agreement" if real else "artifacts", machine)
    markdown.write(page, [*head, *markdown.records(rows)])


if __name__ == "__main__":
    main()
