"""What a hostile file is, and the codes with which they are refused."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.integration import bad_files as files
from tests.integration.bad_cases import small_network
from worker.inspections import KindName

BROKEN, UNSAFE, BOMB, FORMAT = "truncated_file", "unsafe_pickle", "archive_bomb", "unsupported_format"
NO_STATE, DTYPE, NOT_FINITE = "not_a_state_dict", "unsupported_dtype", "non_finite_weights"
DATASET, SHAPE, LABELS = "invalid_dataset", "invalid_dataset_shape", "labels_out_of_range"

# Takes the path that a program in the file would create, if one ever ran.
Make = Callable[[Path], bytes]
Cases = dict[str, tuple[Make, str]]


@dataclass(frozen=True)
class Case:
    kind: KindName
    make: Make
    code: str


def state() -> dict[str, torch.Tensor]:
    """Of a whole network: cifar/resnet8 for gray images."""
    return dict(small_network().state_dict())


def fixed(data: Callable[[], bytes]) -> Make:
    return lambda _: data()


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def with_member(archive: bytes, base: str, data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    folder = next(iter(members)).partition("/")[0]
    return files.zipped({**members, f"{folder}/{base}": data})
