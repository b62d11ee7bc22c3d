"""Which kernels does a file spend its time in, compared with another file of the same network?

    python benchmarks/kernel_times.py [--bits w4a4] [--runs 100] [--nodes] [NETWORK]

NETWORK is ARCHITECTURE@SIDE, its files those of benchmarks/latency.py. ONNX Runtime's own profiler times
every node of every run on one thread; the table has, by kind of operator, how many nodes there are and the
sum of their median microseconds, for ONNX Runtime's int8 file and for ours. `--nodes` lists our nodes
of each kind that the other has none, or fewer, of.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort
from latency import Files

from core.export.builder import INPUT
from core.export.session import PROVIDERS

Times = dict[tuple[str, str], float]


def profile(models: Sequence[Path], shape: tuple[int, int, int], runs: int) -> list[Times]:
    """For each model (kind, node) -> median microseconds; the models take turns."""
    sessions = [_session(model) for model in models]
    image = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
    for _ in range(runs):
        for session in sessions:
            session.run(None, {INPUT: image})
    return [_read(Path(session.end_profiling())) for session in sessions]


def _session(model: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(model.with_suffix(""))
    return ort.InferenceSession(str(model), options, providers=PROVIDERS)


def _read(events: Path) -> Times:
    found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for event in json.loads(events.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            arguments = event["args"]
            shapes = [_shape(arguments[side]) for side in ("input_type_shape", "output_type_shape")]
            name = f"{arguments['node_index']} {' -> '.join(shapes)}"
            found[arguments["op_name"], name].append(event["dur"])
    return {node: median(times) for node, times in found.items()}


def _shape(tensors: list[dict[str, list[int]]]) -> str:
    """Of the first one: the profiler gives each as {type: dimensions}."""
    return "x".join(map(str, next(iter(tensors[0].values())))) if tensors else ""


def by_kind(times: Times) -> dict[str, tuple[int, float]]:
    kinds: defaultdict[str, list[float]] = defaultdict(list)
    for (kind, _), microseconds in times.items():
        kinds[kind].append(microseconds)
    return {kind: (len(found), sum(found)) for kind, found in kinds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("network", nargs="?", default="torchvision/resnet18@224")
    parser.add_argument("--bits", default="w4a4")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--nodes", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = Files(arguments.network, Path(folder))
        models = (files.int8, files.quantized(arguments.bits))
        theirs, ours = profile(models, files.shape, arguments.runs)
    reference, found = by_kind(theirs), by_kind(ours)
    print(f"| {files.name} {arguments.bits} | int8: nodes | µs | zsq: nodes | µs | more |")
    print("| --- | --- | --- | --- | --- | --- |")
    kinds = sorted({*reference, *found}, key=lambda kind: -found.get(kind, (0, 0.0))[1])
    for kind in kinds:
        (count, spent), (other, less) = found.get(kind, (0, 0.0)), reference.get(kind, (0, 0.0))
        print(f"| {kind} | {other} | {less:.0f} | {count} | {spent:.0f} | {spent - less:+.0f} |")
    total, before = sum(ours.values()), sum(theirs.values())
    print(f"| all | {len(theirs)} | {before:.0f} | {len(ours)} | {total:.0f} | {total - before:+.0f} |")
    if arguments.nodes:
        extra = {kind for kind in found if found[kind][0] > reference.get(kind, (0, 0.0))[0]}
        for (kind, node), microseconds in sorted(ours.items(), key=lambda item: -item[1]):
            if kind in extra:
                print(f"{microseconds:8.1f} µs  {kind:20} {node}")


if __name__ == "__main__":
    main()
