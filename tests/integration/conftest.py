"""A real zsq: Valkey, migrations, API, two Celery workers, SQLite, one for the whole module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.running import Running
from zsq.client import Client
from zsq.stack import Stack

# Short leases and frequent sweeps, so that what a dead worker held is found within seconds.
FAST = {
    "ZSQ_LEASE_SECONDS": "6",
    "ZSQ_HEARTBEAT_SECONDS": "0.5",
    "ZSQ_SWEEP_SECONDS": "1",
    "ZSQ_CANCEL_GRACE_SECONDS": "5",
    "ZSQ_SHUTDOWN_GRACE_SECONDS": "2",
    "ZSQ_TORCH_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    said: list[str] = []
    data_dir = tmp_path_factory.mktemp("stack")
    with (
        Stack(data_dir=data_dir, port=0, env=FAST, say=said.append) as stack,
        Client(stack.url) as client,
    ):
        yield Running(stack, client, said, data_dir)


@pytest.fixture(scope="module")
def harness() -> Iterator[None]:
    """The programs in benchmarks/ find their package `faults` as the interpreter does when it runs one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield


@pytest.fixture(scope="module")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small residual network with random weights, for 8x8 gray images of ten classes."""
    import torch

    from core.networks.architectures import build

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "network.pt"
    torch.save(build("cifar/resnet8", num_classes=10, in_channels=1).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def images_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred labelled images of noise."""
    import numpy as np

    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, x=rng.integers(0, 256, (100, 8, 8, 1), dtype=np.uint8), y=rng.integers(0, 10, 100))
    return path
