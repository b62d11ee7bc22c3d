"""Image sets to measure on: archives as jobs take them, plain folders, and a part of either."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from core.evaluate import datasets
from core.evaluate.datasets import ImageDataset
from core.evaluate.folder import FolderImages
from core.evaluate.npz import NpzImages
from core.evaluate.preprocess import Pixels
from core.networks.inspect import LoadedNetwork


def opened(path: Path, loaded: LoadedNetwork, scratch: Path) -> ImageDataset:
    """The set at `path`, a file or a folder. Raises DatasetError, and ValueError on missing classes."""
    dataset = datasets.open_dataset(archived(path, scratch) if path.is_dir() else path)
    dataset.check(loaded.num_classes, loaded.input_shape)
    numbered = all(re.match(r"\d", name) for name in dataset.names.values())
    if not numbered and len(dataset.names) != loaded.num_classes:
        raise ValueError(
            f"{path} has {len(dataset.names)} folders, and the network {loaded.num_classes} classes: folders "
            "are classes in sorted order, so that none may be missing unless their names begin with numbers"
        )
    return dataset


def archived(folder: Path, scratch: Path) -> Path:
    """A tar of the folder; what links point to counts as there."""
    archive = scratch / f"{folder.name}.tar"
    with tarfile.open(archive, "w", dereference=True) as tar:
        tar.add(folder, arcname=folder.name)
    return archive


@dataclass(frozen=True, slots=True)
class SomeImages(NpzImages):
    """The images of `whole` at the places `kept`."""

    whole: NpzImages
    kept: frozenset[int]

    def images(self) -> Iterator[Pixels]:
        return (image for place, image in enumerate(self.whole.images()) if place in self.kept)


def thinned(dataset: ImageDataset, limit: int | None) -> ImageDataset:
    """At most `limit` of the images, evenly spread: sets are often sorted by class."""
    if limit is None or limit >= len(dataset):
        return dataset
    source = dataset.source
    kept = np.arange(limit) * len(dataset) // limit
    labels = source.labels[kept]
    if isinstance(source, FolderImages):
        some: FolderImages | NpzImages = replace(
            source, members=tuple(source.members[place] for place in kept), labels=labels
        )
    else:
        some = SomeImages(source.path, source.shape, labels, source, frozenset(kept.tolist()))
    return replace(dataset, source=some, labels=torch.from_numpy(labels))
