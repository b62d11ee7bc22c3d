"""`zsq demo`: the whole product once, on a machine without any checkpoint or download.

Trains `examples/digits`, starts a private stack, quantizes through HTTP like any user, downloads, and
shows the report. Every step that does not give what it should ends the demo with `DemoFailed`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import zsq
from zsq.client import Client
from zsq.commands.jobs import fetch
from zsq.errors import DemoFailed, JobNotSucceeded
from zsq.report_view import print_report
from zsq.stack import Stack
from zsq.terminal import JobProgress, duration

ROOT = Path(zsq.__file__).resolve().parent.parent
TRAIN = ROOT / "examples" / "digits" / "train.py"
FILES = ("model.onnx", "report.json", "samples.png")


def demo(out: Console, folder: Path, *, bits: str, method: str, cache: Path) -> None:
    """Leaves `model.onnx`, `report.json` and `samples.png` in `folder`; the trained network in `cache`."""
    began = time.monotonic()
    trained = _train(out, cache / "digits")
    # A port of the system's choice and a folder of its own: a stack that is already up is not disturbed.
    with tempfile.TemporaryDirectory(prefix="zsq-demo-") as data_dir:
        out.print("Starting the stack: API, broker, workers, database …")
        # Inside the folder, whatever the user has set; a broker of its own, and no keys.
        own = {"ZSQ_DATABASE_URL": "", "ZSQ_BLOBS_URL": "", "ZSQ_BROKER_URL": "", "ZSQ_AUTH": "off"}
        own["ZSQ_CORS_ORIGINS"] = ""
        with Stack(Path(data_dir), 0, env=own) as stack, Client(stack.url) as client:
            out.print(f"The API listens on {stack.url}")
            _quantize(out, client, trained, folder, bits, method)
    out.print(f"Stopped. The whole took {duration(time.monotonic() - began)}; the files stand in {folder}/")


@dataclass(frozen=True, slots=True)
class Trained:
    """What `examples/digits/train.py` leaves in a folder: a checkpoint, a test set, and what they are."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "digits.pt"

    @property
    def test_set(self) -> Path:
        return self.folder / "digits_test.npz"

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / "digits.json").read_text())
        return facts

    def is_current(self) -> bool:
        """Whether the script has finished here since it was last changed (it writes the facts last)."""
        facts = self.folder / "digits.json"
        return facts.is_file() and facts.stat().st_mtime >= TRAIN.stat().st_mtime


def _train(out: Console, folder: Path) -> Trained:
    if not TRAIN.is_file():
        raise DemoFailed(f"The demo runs from a checkout of the repository: {TRAIN} is not there.")
    trained = Trained(folder)
    if not trained.is_current():
        out.print("Training a small residual network on scikit-learn's digits …")
        run = subprocess.run(
            [sys.executable, str(TRAIN), str(folder)],
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        if run.returncode:
            raise DemoFailed(f"{TRAIN} exited with {run.returncode}.")
    facts = trained.facts()
    out.print(
        f"{facts['architecture']} on digits: {facts['correct']} of {facts['total']} held-back images right",
        markup=False,
    )
    return trained


def _quantize(out: Console, client: Client, trained: Trained, folder: Path, bits: str, method: str) -> None:
    facts = trained.facts()
    checkpoint = client.upload_checkpoint(
        trained.checkpoint,
        facts["architecture"],
        name="digits",
        input_shape=facts["input_shape"],
        mean=facts["mean"],
        std=facts["std"],
    )
    dataset = client.upload_dataset(trained.test_set, name="digits, held back")
    job = client.submit(checkpoint.id, bits=bits, method=method, dataset_id=dataset.id)
    out.print(
        f"{job.id}: {bits}, {method}, from the checkpoint alone (the images only measure)", markup=False
    )
    with JobProgress(out) as progress:
        job = client.wait(job.id, on_change=progress.show)
    if job.status != "succeeded":
        raise JobNotSucceeded(job)
    for path in fetch(client, job.id, list(FILES), folder):
        if not path.stat().st_size:
            raise DemoFailed(f"{path} is empty.")
    report = client.report(job.id)
    print_report(out, report, method)
    measured = report.get("accuracy") or {}
    absent = [name for name in ("float32", "minmax", "student", "onnxruntime") if not measured.get(name)]
    if absent:
        raise DemoFailed(f"The report has no accuracy of: {', '.join(absent)}.")
