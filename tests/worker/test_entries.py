"""What a child is for, where the kernel confines it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.networks import architectures
from core.spec import (
    BitSpec,
    Budget,
    FastConfig,
    GdfqConfig,
    MinMaxConfig,
    NetworkSpec,
    QuantizationSpec,
    ZaqConfig,
    ZeroqConfig,
)
from tests.worker.watched import PREFIX
from worker.child import Order
from worker.outcomes import Finished, Limit
from worker.runner import run_child

METHODS = [
    MinMaxConfig(images=16, iterations=2),
    FastConfig(images=8, iterations=2),
    ZeroqConfig(images=16, iterations=2),
    ZaqConfig(budget=Budget(iterations=2), batch_size=8, latent_dim=8, warmup_iterations=1),
    GdfqConfig(
        budget=Budget(iterations=2), batch_size=8, latent_dim=8, warmup_iterations=1, distilled_images=8
    ),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Payloads of a checkpoint, and of the same few images as arrays and as pictures."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    torch.save(architectures.build("cifar/resnet8").state_dict(), folder / "network.pt")
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", x=images, y=np.arange(20) % 10)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number, image in enumerate(images):
            picture = io.BytesIO()
            Image.fromarray(image).save(picture, "PNG" if number % 2 else "JPEG")
            archive.writestr(
                f"class{number % 10}/{number}.{'png' if number % 2 else 'jpg'}", picture.getvalue()
            )
    network = NetworkSpec("cifar/resnet8", input_shape=(3, 16, 16)).to_json()
    return {
        "checkpoint": {**_named(folder / "network.pt"), "network": network},
        "arrays": {**_named(folder / "images.npz"), "classes": None},
        "pictures": {**_named(folder / "images.zip"), "classes": None},
    }


def _named(path: Path) -> dict[str, Any]:
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def run(entry: str, payload: dict[str, Any], scratch: Path) -> Any:
    outcome = run_child(
        Order(entry=PREFIX + entry, payload=payload, scratch=scratch, device="cpu", threads=2),
        limit=Limit(300),
        grace_seconds=1,
        watch=lambda: None,
        on_progress=lambda news: None,
    )
    assert isinstance(outcome, Finished), outcome
    assert outcome.value["asked"] == []
    return outcome.value["done"]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_method_needs_no_processes_and_no_network(
    files: dict[str, dict[str, Any]], tmp_path: Path, method: Any
) -> None:
    output, scratch = tmp_path / "output", tmp_path / "scratch"
    output.mkdir()
    scratch.mkdir()
    payload = {
        "checkpoint": files["checkpoint"],
        "dataset": files["arrays"],
        "spec": QuantizationSpec(BitSpec(4, 4), method).to_json(),
        "output": str(output),
    }
    done = run("quantize", payload, scratch)
    assert done["artifacts"] and all(Path(each["path"]).is_file() for each in done["artifacts"])
    assert done["report"]["accuracy"]


@pytest.mark.parametrize(
    ("entry", "file"),
    [
        ("inspect_checkpoint", "checkpoint"),
        ("inspect_dataset", "arrays"),
        ("inspect_dataset", "pictures"),
    ],
)
def test_an_inspection_needs_none_either(
    files: dict[str, dict[str, Any]], tmp_path: Path, entry: str, file: str
) -> None:
    assert run(entry, files[file], tmp_path)
