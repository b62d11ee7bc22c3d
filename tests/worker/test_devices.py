from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from worker.devices import NoDevice, gpus, take_gpu

FOUND = ["GPU-aaaa", "GPU-bbbb"]


def elsewhere(locks: Path, wanted: str = "auto") -> subprocess.Popen[str]:
    """Another worker, which has taken a GPU once it has said so, and keeps it until its input ends."""
    script = (
        "import sys; from pathlib import Path; from worker.devices import take_gpu\n"
        f"print(take_gpu({wanted!r}, {FOUND!r}, Path({str(locks)!r})), flush=True); sys.stdin.read()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def said(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def test_every_worker_takes_a_gpu_of_its_own_and_a_dead_ones_is_free_again(tmp_path: Path) -> None:
    with elsewhere(tmp_path) as first:
        assert said(first) == "cuda:0"
        with elsewhere(tmp_path) as second:
            assert said(second) == "cuda:1"
            with pytest.raises(NoDevice, match="Each of the 2 GPUs is in use"):
                take_gpu("auto", FOUND, tmp_path)
            second.kill()
        assert take_gpu("cuda", FOUND, tmp_path) == "cuda:1"
        first.kill()


def test_the_one_that_is_asked_for_is_taken_or_none(tmp_path: Path) -> None:
    with elsewhere(tmp_path, "cuda:1") as other:
        assert said(other) == "cuda:1"
        with pytest.raises(NoDevice, match="GPU 1 is in use"):
            take_gpu("cuda:1", FOUND, tmp_path)
        assert take_gpu("auto", FOUND, tmp_path) == "cuda:0"
        other.kill()


def test_the_same_gpu_is_told_by_its_id_not_by_its_place(tmp_path: Path) -> None:
    """As in containers that are given one GPU each."""
    assert take_gpu("auto", FOUND[:1], tmp_path) == "cuda:0"
    assert take_gpu("auto", FOUND[1:], tmp_path) == "cuda:0"
    with pytest.raises(NoDevice):
        take_gpu("auto", FOUND[1:], tmp_path)


@pytest.mark.parametrize(
    ("wanted", "found", "says"),
    [("cpu", FOUND, "ZSQ_DEVICE=cpu"), ("auto", [], "No GPU"), ("cuda:2", FOUND, "there are 2 GPUs")],
)
def test_no_gpu_is_a_clear_error(tmp_path: Path, wanted: str, found: list[str], says: str) -> None:
    with pytest.raises(NoDevice, match=says):
        take_gpu(wanted, found, tmp_path)


def test_gpus_are_counted_in_a_child() -> None:
    import torch

    assert len(gpus()) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert not torch.cuda.is_initialized()
