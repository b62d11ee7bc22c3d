"""`python -m worker.doctor`: whether this machine can compute jobs, and on what."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from store.findings import Check, Failure, Finding, examine, settings_finding, tell, variables
from worker.settings import WorkerSettings

_TORCH = """
import torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(torch.__version__, *map(torch.cuda.get_device_name, range(count)), sep="\\n")
"""
_CONFINED = """
import os
from worker.hardening import confine
confine(None)
try:
    if os.fork() == 0:
        os._exit(0)
    print("start processes that outlive it")
except PermissionError:
    pass
try:
    open(f"/proc/{os.getppid()}/environ").close()
    print("read what other processes of its user hold")
except OSError:
    pass
"""
_INSTALL = "Install zsq with its worker extra: pip install 'zsq[worker]'."


def findings() -> list[Finding]:
    found = settings_finding("worker settings", WorkerSettings)
    device = WorkerSettings().device if found.level != "failure" else "auto"
    checks = [
        Check("torch", lambda: torch(device), _INSTALL, 90.0),
        Check("ONNX Runtime", onnxruntime, _INSTALL, 60.0),
        Check("confinement", confinement, _INSTALL, 30.0),
        Check("processor", processor, "See /proc/cpuinfo."),
    ]
    return [found, *examine(checks)]


def torch(device: str) -> str:
    """Its version, and where jobs run. In a process of its own, as jobs have it."""
    ran = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=80)
    if ran.returncode != 0:
        last = ran.stderr.strip().rpartition("\n")[2] or f"exit code {ran.returncode}"
        raise Failure(f"cannot be imported: {last}", _INSTALL)
    version, *gpus = ran.stdout.splitlines()
    index = int(device.partition(":")[2] or 0) if device.startswith("cuda") else 0
    if device.startswith("cuda") and index >= len(gpus):
        advice = "Set ZSQ_DEVICE to auto or cpu, or see that the driver works (nvidia-smi)."
        raise Failure(f"{version} sees {len(gpus)} CUDA devices; ZSQ_DEVICE asks for {device}", advice)
    return f"{version}, jobs run on {_where(device, gpus)}"


def _where(device: str, gpus: Sequence[str]) -> str:
    """A worker computes on the CPU or on one GPU, as it is started."""
    if device == "cpu":
        return "the CPU (ZSQ_DEVICE=cpu)"
    if not gpus:
        return "the CPU: no GPU was found"
    one = device.partition(":")[2]
    names = [gpus[int(one)]] if one else list(dict.fromkeys(gpus))
    several = f"one of {len(gpus)} GPUs: " if len(gpus) > 1 and not one else ""
    return f"the CPU by `python -m worker cpu`, on {several}{', '.join(names)} by `python -m worker gpu`"


def onnxruntime() -> str:
    """Runs a quantized convolution as exported files have them, and looks at the answer."""
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    one = np.float32(1)
    names = ["x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"]
    values = [one, np.uint8(0), np.full((1, 1, 1, 1), 3, np.int8), one, np.int8(0), one, np.uint8(0)]
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", ["x", *names], ["y"])],
        "doctor",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 1, 2, 2])],
        [
            onnx.numpy_helper.from_array(np.asarray(value), name)
            for name, value in zip(names, values, strict=True)
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 2)
    if not np.array_equal(session.run(None, {"x": x})[0], 3 * x):
        raise Failure(
            f"{ort.__version__} computes a convolution of integers wrongly", "Install another version."
        )
    return f"{ort.__version__} computes convolutions of integers"


def confinement() -> str | Finding:
    """Whether the kernel holds jobs' processes as it should; they run all the same."""
    ran = subprocess.run([sys.executable, "-c", _CONFINED], capture_output=True, text=True, timeout=20)
    if ran.returncode != 0:
        last = ran.stderr.strip().rpartition("\n")[2] or f"exit code {ran.returncode}"
        raise Failure(f"no process can be confined: {last}", "See what around this process forbids it.")
    if not ran.stdout:
        return "jobs start no processes, and reach no network and no other process"
    may = " and ".join(ran.stdout.splitlines())
    advice = "Let no strangers upload, or run workers on Linux 5.19 or later with seccomp and Landlock."
    return Finding("confinement", "warning", f"a job that is taken over may {may}", advice)


def processor(path: Path = Path("/proc/cpuinfo")) -> str | Finding:
    """Without VNNI, kernels of 8-bit weights and activations may saturate; 7 bits and fewer cannot."""
    lines = [line for line in path.read_text().splitlines() if line.startswith(("flags", "Features"))]
    flags = set(lines[0].partition(":")[2].split()) if lines else set()
    has = [name for name in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp") if name in flags]
    detail = " ".join(has) or "none of AVX2, VNNI, AMX and dot products"
    if {"avx512_vnni", "avx_vnni", "asimddp"} & flags:
        return detail
    advice = "Ask for 7-bit weights where files run on such processors: 8-bit ones may saturate."
    return Finding("processor", "warning", detail, advice)


if __name__ == "__main__":
    tell(findings(), variables(WorkerSettings))
