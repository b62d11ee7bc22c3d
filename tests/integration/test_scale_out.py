"""Two API processes and three workers, each with a folder of its own, on PostgreSQL, Valkey and S3."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zsq.client import Client


@pytest.fixture(scope="module")
def cluster(harness: None) -> Iterator[Any]:
    module = importlib.import_module("faults.cluster")
    with module.Cluster(module.Shape(apis=2, workers=3, blobs="s3")) as running:
        yield running


def test_any_api_and_any_worker_will_do(cluster: Any, network_file: Path, tmp_path: Path) -> None:
    wait_for = importlib.import_module("faults.process").wait_for
    work = importlib.import_module("faults.work")
    with Client(cluster.urls[0]) as first, Client(cluster.urls[1]) as second:
        uploaded = first.upload_checkpoint(
            network_file, "cifar/resnet8", input_shape=(1, 8, 8), mean=(0.5,), std=(0.25,)
        )
        endless = [
            second.submit(uploaded.id, bits="w4a4", method=work.training(600), seed=seed).id
            for seed in range(3)
        ]

        def busy() -> set[str]:
            return {row.worker for row in cluster.records.jobs() if row.status == "running"}

        wait_for(lambda: len(busy()) == 3, 120, "three workers run a job each")
        assert all(cluster.worker_of(name) is not None for name in busy())

        cluster.apis[0].kill()
        for id in endless:
            second.cancel(id)
        assert [second.wait(id, timeout=60).status for id in endless] == ["canceled"] * 3
        short = [
            second.submit(uploaded.id, bits="w4a4", method=work.SHORT, seed=seed).id for seed in range(3, 6)
        ]
        for id in short:
            ended = second.wait(id, timeout=120)
            assert ended.status == "succeeded", f"{ended.error}\n{cluster.logs()}"

        cluster.apis[0].start()
        for id in short:
            for artifact in second.artifacts(id):
                files = [
                    client.download(id, artifact.name, tmp_path / f"{id}-{number}-{artifact.name}")
                    for number, client in enumerate((first, second))
                ]
                one, other = (file.read_bytes() for file in files)
                assert one == other and hashlib.sha256(one).hexdigest() == artifact.sha256
