"""What do biases of fewer bits cost?

    python benchmarks/bias_bits.py --data FOLDER [--bits w8a8 w4a4] [--seeds 0 1 2] [--method fast] [--write]

CIFAR-10 ResNet-20 from a folder of real checkpoints and images (see `artifacts.REAL`), biases of 32, 16, 12
and 8 bits: points of top-1 below float32, of the ONNX file in ONNX Runtime. At 32 bits biases stand on the
integer kernels' accumulator grid alone; fewer bits round them to a symmetric grid of their layer first.
Writes benchmarks/bias_bits_<method>_<hardware>_<date>.md.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from pathlib import Path

import markdown
from accuracy import Network, real_subject
from pydantic import TypeAdapter

from core.evaluate.metrics import Accuracy
from core.spec import AnyMethod, BitSpec, MethodConfig

WIDTHS = (32, 16, 12, 8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bits", nargs="+", default=["w8a8", "w4a4"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--method", default="fast")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    adapter: TypeAdapter[MethodConfig] = TypeAdapter(AnyMethod)
    config = adapter.validate_python(arguments.method)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        network = Network(real_subject("cifar/resnet20", arguments.data), None, Path(scratch))
        for shorthand in arguments.bits:
            bits = BitSpec.parse(shorthand)
            for width in WIDTHS:
                asked = BitSpec(bits.weight, bits.activation, bias=width)
                found = [
                    network.in_file(network.quantize(asked, config, seed).student) for seed in arguments.seeds
                ]
                rows.append([shorthand, str(width), *losses(network, found)])
                print(" | ".join(rows[-1]), flush=True)
    if arguments.write:
        write(rows, list(network.sets), arguments)


def losses(network: Network, found: list[dict[str, Accuracy]]) -> list[str]:
    """Of each image set, the mean over the seeds and each of them."""
    cells = []
    for name, float32 in network.float32.items():
        lost = [float32.top1 - each[name].top1 for each in found]
        cells.append(f"{sum(lost) / len(lost):.2f} ({', '.join(f'{each:.2f}' for each in lost)})")
    return cells


def write(rows: list[list[str]], sets: list[str], arguments: argparse.Namespace) -> None:
    lines = [
        f"# Bits of biases: CIFAR-10 ResNet-20, {arguments.method}",
        "",
        f"`python benchmarks/bias_bits.py --method {arguments.method} --bits {' '.join(arguments.bits)} "
        f"--seeds {' '.join(map(str, arguments.seeds))}`, {platform.machine()}, {markdown.today()}. "
        "Points of top-1 below float32,",
        f"mean of seeds {', '.join(map(str, arguments.seeds))} and each of them, the files in ONNX Runtime.",
        "",
        *markdown.table(["bits", "bias bits", *sets], rows),
    ]
    markdown.write(markdown.page(f"bias_bits_{arguments.method}", platform.machine()), lines)


if __name__ == "__main__":
    main()
