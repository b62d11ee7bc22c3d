from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from store.findings import Failure, Finding
from tests.worker.test_landlock import has_landlock
from worker import bpf
from worker.doctor import confinement, onnxruntime, processor, torch


def test_torch_is_asked_in_a_process_of_its_own() -> None:
    import torch as here

    assert torch("cpu").startswith(here.__version__)
    with pytest.raises(Failure, match="cuda:99"):
        torch("cuda:99")


FAKE = """
__version__ = "2.14.1"
class cuda:
    is_available = staticmethod(lambda: {gpus} != [])
    device_count = staticmethod(lambda: len({gpus}))
    get_device_name = staticmethod(lambda index: {gpus}[index])
"""
H100, L4 = "NVIDIA H100", "NVIDIA L4"


@pytest.mark.parametrize(
    ("device", "gpus", "where"),
    [
        ("auto", [], "the CPU: no GPU was found"),
        ("cpu", [H100], "the CPU (ZSQ_DEVICE=cpu)"),
        ("auto", [H100], "the CPU by `python -m worker cpu`, on NVIDIA H100 by `python -m worker gpu`"),
        (
            "cuda",
            [L4, L4],
            "the CPU by `python -m worker cpu`, on one of 2 GPUs: NVIDIA L4 by `python -m worker gpu`",
        ),
        ("cuda:1", [H100, L4], "the CPU by `python -m worker cpu`, on NVIDIA L4 by `python -m worker gpu`"),
    ],
)
def test_it_is_told_which_workers_compute_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, gpus: list[str], where: str
) -> None:
    (tmp_path / "torch.py").write_text(FAKE.format(gpus=gpus))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert torch(device) == f"2.14.1, jobs run on {where}"


def test_torch_that_cannot_be_imported_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(Failure, match="libcudart is missing"):
        torch("auto")


def test_onnxruntime_computes_in_integers() -> None:
    assert "integers" in onnxruntime()


@pytest.mark.parametrize(
    ("flags", "fine"),
    [("fpu avx2 avx512_vnni amx_int8", True), ("fpu avx2 avx_vnni", True), ("fpu avx2", False), ("", False)],
)
def test_processors_without_vnni_are_warned_of(tmp_path: Path, flags: str, fine: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor : 0\nflags\t\t: {flags}\n\nprocessor : 1\nflags : none\n")
    found = processor(path)
    assert isinstance(found, str) == fine
    assert isinstance(found, str) or (isinstance(found, Finding) and "7-bit" in str(found.advice))


@pytest.mark.skipif(not (bpf.machine() and has_landlock()), reason="the kernel cannot")
def test_confined_jobs_are_fine() -> None:
    found = confinement()
    assert isinstance(found, str) and "no processes" in found


@pytest.mark.skipif(bpf.machine() is None, reason="no filter is known for this machine")
def test_jobs_that_the_kernel_does_not_confine_are_warned_of() -> None:
    script = """
from tests.worker.kernels import without
from worker.doctor import confinement
from worker.hardening import drop_capabilities
without("seccomp", "landlock")
drop_capabilities()
print(confinement())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "level='warning'" in ran.stdout, ran.stderr
    assert "start processes that outlive it and read" in ran.stdout
