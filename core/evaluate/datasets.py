"""The user's labelled evaluation set: opened safely, checked, read in normalized batches.

It is used only to *measure*; nothing is ever trained, calibrated or selected on it. The names of its
classes are written into the file.

Images of another size than the network's: those larger by at most 16 pixels are centre-cropped;
others are resized (bilinear, antialiased), the shorter side so that the centre crop is 87.5 % of it,
or the whole of it where that would enlarge the image, and then centre-cropped. `preprocessing` says
in words what was done, for the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.errors import DatasetError
from core.evaluate import preprocess
from core.evaluate.folder import FolderImages, decode, image_size, open_folder
from core.evaluate.npz import NpzImages, open_npz
from core.networks import archive
from core.spec import MAX_CLASS_NAME

MAX_FILE_BYTES = 8 * 2**30
_DECODED_AT_INSPECTION = 32


@dataclass(frozen=True, slots=True)
class ImageDataset:
    """`labels` is int64 [N]; `shape` (H, W, C) where all images have it (`.npz`), else None.

    `names` maps labels to the names of their classes, as far as there are any.
    """

    source: NpzImages | FolderImages
    labels: Tensor
    shape: tuple[int, int, int] | None
    names: dict[int, str]

    def __len__(self) -> int:
        return len(self.labels)

    def check(self, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        """Raises DatasetError unless the network (C, H, W) can be measured on this set.

        labels_out_of_range unless every label is one of its classes; invalid_dataset_shape unless the
        images can be brought to its input. Asked before a job computes anything.
        """
        highest = int(self.labels.max())
        if highest >= num_classes:
            raise DatasetError(
                f"The evaluation set has the label {highest}, but the network has {num_classes} classes "
                f"(0 to {num_classes - 1}).",
                code="labels_out_of_range",
                field="evaluation.dataset_id",
            )
        channels, height, width = input_shape
        # One image stands for all: an .npz has one shape, and those of a folder are all RGB.
        first_HWC = next(iter(self.source.images()))
        preprocess.fit(preprocess.with_channels(first_HWC, channels), height, width)

    def class_names(self, num_classes: int) -> list[str] | None:
        """By label, every one of 0 to num_classes - 1; None where the set does not name exactly these.

        Numbers alone are no names.
        """
        if set(self.names) != set(range(num_classes)):
            return None
        names = [self.names[label] for label in range(num_classes)]
        bare = all(name == str(label) for label, name in enumerate(names))
        return None if bare or max(map(len, names)) > MAX_CLASS_NAME else names

    def preprocessing(self, input_shape: tuple[int, int, int]) -> str:
        """In words, what makes these images fit (C, H, W)."""
        return preprocess.describe(input_shape[1], input_shape[2], self.shape)

    def batches(
        self,
        input_shape: tuple[int, int, int],
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (x float32 [N, C, H, W] normalized, y int64 [N]), every image once, in order.

        Decodes as it goes: one batch is in memory at a time. Raises DatasetError.
        """
        channels, height, width = input_shape
        waiting: list[preprocess.Pixels] = []
        done = 0
        for image_HWC in self.source.images():
            image_HWC = preprocess.with_channels(image_HWC, channels)
            waiting.append(preprocess.fit(image_HWC, height, width))
            if len(waiting) == batch_size or done + len(waiting) == len(self):
                y_N = self.labels[done : done + len(waiting)]
                yield preprocess.normalize(np.stack(waiting), mean, std), y_N
                done += len(waiting)
                waiting = []
        if done != len(self):
            raise DatasetError(
                "The archive ended before its last image.", code="truncated_file", field="file"
            )


def open_dataset(path: Path, classes: Sequence[str] | None = None) -> ImageDataset:
    """Opens an `.npz`, or a zip or tar of an image folder, found from the content.

    Raises DatasetError (empty_file, truncated_file, archive_bomb, invalid_dataset,
    invalid_dataset_shape, labels_out_of_range).
    """
    size = path.stat().st_size
    if size == 0:
        raise DatasetError("The dataset file is empty.", code="empty_file", field="file")
    if size > MAX_FILE_BYTES:
        raise DatasetError(
            f"The dataset has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read.", field="file"
        )
    try:
        dataset = _open(path, classes)
    except DatasetError as error:
        error.field = error.field or "file"
        raise
    lowest, highest = int(dataset.labels.min()), int(dataset.labels.max())
    if lowest < 0 or (classes is not None and highest >= len(classes)):
        wrong = lowest if lowest < 0 else highest
        raise DatasetError(
            f"The dataset has the label {wrong}"
            + (f", but {len(classes)} classes are named." if classes is not None else "; labels begin at 0."),
            code="labels_out_of_range",
            field="file",
        )
    return dataset


def inspect_dataset(path: Path, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """What the set holds: images, shape [H, W, C] where all have it, classes, images per class.

    Reads every image's header and decodes some, so that a damaged set is refused before a job uses it.
    """
    dataset = open_dataset(path, classes)
    shape = _inspect_images(dataset)
    counts = Counter(dataset.labels.tolist())
    return {
        "images": len(dataset),
        "shape": list(shape) if shape else None,
        "classes": len(counts),
        "counts": {dataset.names.get(label, str(label)): counts[label] for label in sorted(counts)},
    }


def _open(path: Path, classes: Sequence[str] | None) -> ImageDataset:
    with path.open("rb") as stream:
        is_zip = stream.read(2) == b"PK"
    named = dict(enumerate(classes)) if classes is not None else {}
    members = None
    if is_zip:
        members = archive.checked_members(path, DatasetError, "invalid_dataset")
        if any(member.filename.endswith(".npy") for member in members):
            images = open_npz(path, members)
            return ImageDataset(images, torch.from_numpy(images.labels), images.shape, named)
    folder = open_folder(path, classes, members)
    return ImageDataset(folder, torch.from_numpy(folder.labels), None, named or folder.names)


def _inspect_images(dataset: ImageDataset) -> tuple[int, int, int] | None:
    source = dataset.source
    if isinstance(source, NpzImages):
        for _ in source.images():  # to the end: the archive's own checksum is compared there
            pass
        return source.shape
    sizes: set[tuple[int, int]] = set()
    every = max(1, len(dataset) // _DECODED_AT_INSPECTION)
    for index, (name, data) in enumerate(source.files()):
        sizes.add(image_size(name, data))
        if index % every == 0:
            decode(name, data)
    return (*sizes.pop(), 3) if len(sizes) == 1 else None
