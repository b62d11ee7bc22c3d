"""What a method keeps of a network's accuracy: method × bits × network × seed, on real images.

    python benchmarks/accuracy.py --data FOLDER [--method fast zeroq ...] [--bits w8a8 w4a4 ...]
                                  [--seeds 0 1 2] [--options JSON] [--limit N] [--write] [NETWORK ...]
    python benchmarks/accuracy.py --checkpoint FILE --architecture NAME --images FILE_OR_FOLDER ...

The first form takes the networks of `artifacts.REAL` from a folder of real checkpoints and images; the
second any checkpoint of the registry's architectures, and images with labels: an .npz, a zip or tar of
one folder a class, or such a folder itself, which is copied into a temporary tar (set TMPDIR where
/tmp is too small: ImageNet's validation set takes 6.3 GiB).

Top-1 and top-5 of the float32 network, of round to nearest at the same bits (`minmax`, its file in
ONNX Runtime), of the method's result in torch (`IntegerStudent`; on a network's first image set
alone) and of the result's file in ONNX Runtime; the method's time, the round-to-nearest baseline's
and the measuring left out. `--options` are the methods' own, as in a job: '{"budget": {"iterations":
30}}'. `--limit` takes that many images of each set, evenly spread. Rows are printed as they come; with
`--write` they are merged, run by run, into benchmarks/accuracy_<hardware>_<date>.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import accuracy_table
import markdown
import onnx
import onnxruntime
import torch
from artifacts import REAL
from image_sets import opened, thinned
from pydantic import TypeAdapter
from torch import Tensor, nn

from core.context import RunContext, pick_device
from core.evaluate import metrics
from core.export.integer import IntegerStudent
from core.export.onnx import export_student
from core.export.session import open_session, run
from core.fake_quant.insert import Student, build_student
from core.methods import registry
from core.networks.graph import trace
from core.networks.inspect import LoadedNetwork, load_network
from core.pipeline import baseline_config, channels_last
from core.reporting import processor
from core.spec import AnyMethod, BitSpec, MethodConfig, NetworkSpec
from core.synthesis.frame import set_pixel_range

FURTHER_IMAGES = dict.fromkeys(("cifar/resnet20", "cifar/resnet56"), ("cifar10/test_jpeg_5000.tar",))
BATCH = 64
Accuracies = dict[str, metrics.Accuracy]  # by image set


@dataclass(frozen=True)
class Subject:
    """A network to measure, and its image sets by the name that the table gives them."""

    name: str
    checkpoint: Path
    spec: NetworkSpec
    images: dict[str, Path]


@dataclass(frozen=True)
class Quantized:
    student: Student
    wall: float
    processor: float


class Network:
    """A float32 network with its images, and what can be measured of it. `scratch` is a folder."""

    def __init__(self, subject: Subject, limit: int | None, scratch: Path) -> None:
        self.name, self.scratch, self.device = subject.name, scratch, pick_device()
        self.loaded: LoadedNetwork = load_network(subject.checkpoint, subject.spec)
        self.sets = {
            name: thinned(opened(path, self.loaded, scratch), limit) for name, path in subject.images.items()
        }
        self.teacher = trace(self.loaded.network, self.loaded.input_shape).requires_grad_(False)
        set_pixel_range(self.teacher, self.loaded.mean, self.loaded.std)
        channels_last(self.teacher.to(self.device))

    @cached_property
    def float32(self) -> Accuracies:
        return {name: self.measure(name, self.on_device(self.teacher)) for name in self.sets}

    def quantize(self, bits: BitSpec, config: MethodConfig, seed: int) -> Quantized:
        student = build_student(self.teacher, bits, fold=registry.folds_bn(config))
        channels_last(student.to(self.device))
        context = RunContext(self.scratch, seed=seed, device=self.device)
        wall, cpu = time.perf_counter(), time.process_time()
        registry.run(self.teacher, student, config, context)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return Quantized(student.folded(), wall, cpu)

    def in_torch(self, student: Student) -> Accuracies:
        """On the first image set: files compute the same, and faster."""
        first = next(iter(self.sets))
        return {first: self.measure(first, self.on_device(IntegerStudent(student)))}

    def in_file(self, student: Student) -> Accuracies:
        """Of the student's ONNX file in ONNX Runtime."""
        path = self.scratch / "model.onnx"
        exported = export_student(student.cpu(), self.loaded.input_shape, self.loaded.num_classes, {})
        onnx.save(exported.model, path)
        session = open_session(path)
        return {name: self.measure(name, lambda x: run(session, x)) for name in self.sets}

    def on_device(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        def predict(x_NCHW: Tensor) -> Tensor:
            logits: Tensor = network(x_NCHW.to(self.device))
            return logits

        return predict

    def measure(self, name: str, predict: Callable[[Tensor], Tensor]) -> metrics.Accuracy:
        loaded = self.loaded
        batches = self.sets[name].batches(loaded.input_shape, loaded.mean, loaded.std, BATCH)
        return metrics.measure(predict, batches)[0]


def rows(
    network: Network, bits: str, seed: int, methods: dict[str, MethodConfig]
) -> Iterator[accuracy_table.Row]:
    """One for each method and image set. `methods`: by the name that the table gives them."""
    widths = BitSpec.parse(bits)
    baseline = network.quantize(widths, baseline_config(network.loaded.input_shape), seed)
    nearest = network.in_file(baseline.student)
    for method, config in methods.items():
        result = network.quantize(widths, config, seed)
        in_torch, in_file = network.in_torch(result.student), network.in_file(result.student)
        for images, found in in_file.items():
            float32 = network.float32[images]
            values = (
                network.name,
                bits,
                method,
                images,
                str(found.total),
                str(seed),
                percent(float32),
                percent(nearest[images]),
                percent(in_torch.get(images)),
                percent(found),
                f"{float32.top1 - found.top1:.2f}",
                f"{result.wall:.1f}",
                f"{result.processor:.1f}",
            )
            yield dict(zip(accuracy_table.COLUMNS, values, strict=True))


def percent(accuracy: metrics.Accuracy | None) -> str:
    if accuracy is None:
        return "–"
    return f"{accuracy.top1:.2f}" + ("" if accuracy.top5 is None else f" / {accuracy.top5:.2f}")


# --- the command ---


def subjects(arguments: argparse.Namespace) -> list[Subject]:
    if arguments.data is not None:
        return [real_subject(name, arguments.data) for name in arguments.networks or REAL]
    spec = NetworkSpec.from_json({key: getattr(arguments, key) for key in ("architecture", "mean", "std")})
    name = f"{arguments.architecture}, {arguments.checkpoint.name}"
    images = arguments.images.resolve()
    return [Subject(name, arguments.checkpoint, spec, {images.name: images})]


def real_subject(name: str, data: Path) -> Subject:
    real = REAL[name]
    images = (real.images, *FURTHER_IMAGES.get(name, ()))
    return Subject(name, data / real.checkpoint, real.spec, {image: data / image for image in images})


def methods(names: Sequence[str], options: dict[str, Any]) -> dict[str, MethodConfig]:
    """By name, options included. Raises pydantic.ValidationError."""
    adapter: TypeAdapter[MethodConfig] = TypeAdapter(AnyMethod)
    shown = f" {json.dumps(options, sort_keys=True)}" if options else ""
    return {name + shown: adapter.validate_python({**options, "name": name}) for name in names}


def hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{processor()}, {os.cpu_count()} cores"


def table_path() -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", hardware().lower().replace(" cores", "core"))
    return markdown.page("accuracy", slug)


def heading() -> list[str]:
    return [
        "# Accuracy: method × bits × network, real checkpoints and images",
        "",
        f"`python benchmarks/accuracy.py`, {hardware()}, threads: {torch.get_num_threads()}, torch "
        f"{torch.__version__}, onnxruntime {onnxruntime.__version__}, {markdown.today()}.",
        "",
        "Top-1 / top-5 in percent. `round to nearest` is `minmax` at the same bits and seed; `result in",
        "torch` is the method's student in integer arithmetic, `result's file` its ONNX file. Files run in",
        "ONNX Runtime. Differences are of top-1: float32 less the file. The machine may do other things",
        "meanwhile: what to compare are processor seconds (all threads).",
    ]


def write(path: Path, new: Sequence[accuracy_table.Row]) -> None:
    old = accuracy_table.read(path.read_text()) if path.exists() else []
    path.write_text(accuracy_table.render(heading(), accuracy_table.merge(old, new)))


def parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(REAL))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--architecture")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--mean", type=float, nargs="+", help="of the images; absent: the registry's")
    parser.add_argument("--std", type=float, nargs="+")
    parser.add_argument("--method", nargs="+", default=["fast"], dest="methods")
    parser.add_argument("--bits", nargs="+", default=["w8a8", "w6a6", "w4a4"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--limit", type=int)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args(given)
    own = [arguments.checkpoint, arguments.architecture, arguments.images]
    if (arguments.data is None) == (None in own) or (arguments.data is not None and any(own)):
        parser.error("give either --data, or all of --checkpoint, --architecture and --images")
    if arguments.data is None and arguments.networks:
        parser.error("--architecture names the network; NETWORK goes with --data")
    if unknown := set(arguments.networks) - REAL.keys():
        parser.error(f"no checkpoint is known of {', '.join(sorted(unknown))}")
    return arguments


def main(given: Sequence[str] | None = None) -> None:
    arguments = parse(given)
    configs = methods(arguments.methods, arguments.options)
    print(" | ".join(accuracy_table.COLUMNS), flush=True)
    for subject in subjects(arguments):
        with tempfile.TemporaryDirectory() as scratch:
            network = Network(subject, arguments.limit, Path(scratch))
            for bits in arguments.bits:
                for seed in arguments.seeds:
                    for row in rows(network, bits, seed, configs):
                        print(" | ".join(row.values()), flush=True)
                        if arguments.write:
                            write(table_path(), [row])


if __name__ == "__main__":
    main()
