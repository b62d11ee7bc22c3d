"""A running stack and what tests do with it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.waiting import until
from zsq.client import Client
from zsq.models import Checkpoint, Dataset, Job
from zsq.stack import Stack

QUICK = {"name": "minmax", "images": 16, "iterations": 5}
LONG = {"name": "zaq", "budget": {"seconds": 600}, "batch_size": 8, "student_steps": 1, "latent_dim": 8}


@dataclass
class Running:
    stack: Stack
    client: Client
    said: list[str]
    data_dir: Path

    def upload(self, network: Path) -> Checkpoint:
        return self.client.upload_checkpoint(
            network, "cifar/resnet8", input_shape=(1, 8, 8), mean=(0.5,), std=(0.25,)
        )

    def upload_images(self, images: Path) -> Dataset:
        return self.client.upload_dataset(images)

    def submit(self, network: Path, method: dict[str, Any], **options: Any) -> Job:
        return self.client.submit(self.upload(network).id, bits="w4a4", method=method, **options)

    def wait(self, job: Job, seconds: float = 120) -> Job:
        """The job once it has ended, whatever its end."""
        try:
            return self.client.wait(job.id, timeout=seconds)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def until(self, job: Job, condition: Callable[[Job], bool], seconds: float = 60) -> Job:
        end = time.monotonic() + seconds
        while not condition(now := self.client.job(job.id)):
            assert time.monotonic() < end, f"still {now}\n{self.logs()}"
            time.sleep(0.1)
        return now

    def kill(self, part: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Kills a part and waits for its successor."""
        before = self.stack.pid(part)
        assert before is not None
        said = len(self.said)
        os.kill(before, number)
        until(lambda: self.stack.pid(part) != before, complaint=f"{part} was not restarted")
        assert any(part in line and "restarting" in line for line in self.said[said:])

    def logs(self) -> str:
        files = sorted(self.stack.logs.glob("*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)
