"""Evaluation sets as `.npz`: `x` uint8 [N, H, W, C] or [N, H, W], `y` integers [N].

Read as a stream, a batch at a time, so that memory stays flat. Nothing is unpickled: arrays of
objects are refused by their header.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from core.errors import DatasetError
from core.evaluate.preprocess import Pixels
from core.networks import archive
from core.spec import MAX_CLASSES

MAX_SIDE = 4096
MAX_IMAGES = 2_000_000
MAX_IMAGE_BYTES = 64 * 2**20
_MAX_HEADER_BYTES = 4096
_MAX_DIMENSIONS = 8
# By the format's version: what reads its header, and how its length is written.
_HEADERS = {
    (1, 0): (np.lib.format.read_array_header_1_0, "<H"),
    (2, 0): (np.lib.format.read_array_header_2_0, "<I"),
}


@dataclass(frozen=True, slots=True)
class NpzImages:
    """`shape` is (H, W, C); `labels` int64 [N], in the order in which `images` yields."""

    path: Path
    shape: tuple[int, int, int]
    labels: NDArray[np.int64]

    def images(self) -> Iterator[Pixels]:
        """Every image, uint8 [H, W, C]. Raises DatasetError(truncated_file)."""
        size = math.prod(self.shape)
        with zipfile.ZipFile(self.path) as file, file.open("x.npy") as stream:
            _read_header(stream, "x")
            for index in range(len(self.labels)):
                try:
                    data = stream.read(size)
                except archive.READ_ERRORS as reason:
                    raise _cut_off(index) from reason
                if len(data) != size:
                    raise _cut_off(index)
                yield np.frombuffer(data, np.uint8).reshape(self.shape)


def open_npz(path: Path, members: list[zipfile.ZipInfo]) -> NpzImages:
    """Checks both arrays' headers and reads the labels. Raises DatasetError."""
    by_name = {member.filename: member for member in members}
    for name in ("x", "y"):
        if f"{name}.npy" not in by_name:
            have = ", ".join(repr(n.removesuffix(".npy")) for n in sorted(by_name)[:5]) or "nothing"
            raise DatasetError(
                f"The .npz has no array {name!r}; it holds {have}. It needs x (uint8 images, N x H x W x C) "
                "and y (integer labels, N).",
                field="file",
            )
    with zipfile.ZipFile(path) as file:
        try:
            with file.open(by_name["x.npy"]) as stream:
                shape, dtype = _read_header(stream, "x")
                _check_size(by_name["x.npy"], stream.tell(), shape, dtype, "x")
            images = _image_shape(shape, dtype)
            with file.open(by_name["y.npy"]) as stream:
                y_shape, y_dtype = _read_header(stream, "y")
                _check_size(by_name["y.npy"], stream.tell(), y_shape, y_dtype, "y")
                _check_labels(y_shape, y_dtype, shape[0])
                labels = np.frombuffer(stream.read(), y_dtype)
        except archive.READ_ERRORS as reason:
            raise DatasetError(
                "The .npz is damaged or was cut off. Upload it again.", code="truncated_file", field="file"
            ) from reason
    if labels.size and int(labels.max()) >= MAX_CLASSES:
        raise DatasetError(
            f"y holds the label {int(labels.max())}; a network has at most {MAX_CLASSES:,} classes.",
            code="labels_out_of_range",
            field="file",
        )
    return NpzImages(path, images, labels.astype(np.int64))


def _read_header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    try:
        reader, length = _HEADERS[np.lib.format.read_magic(stream)]
        # NumPy would read a header of four gigabytes before it minds.
        size = stream.read(struct.calcsize(length))
        header = stream.read(min(_MAX_HEADER_BYTES, struct.unpack(length, size)[0]))
        shape, fortran, dtype = reader(io.BytesIO(size + header))
    except (
        KeyError,
        ValueError,
        SyntaxError,
        TypeError,
        RecursionError,
        MemoryError,
        struct.error,
    ) as reason:
        raise DatasetError(f"The header of {name!r} is not that of a NumPy array.", field="file") from reason
    if len(shape) > _MAX_DIMENSIONS:
        raise DatasetError(f"{name} has {len(shape)} dimensions.", code="invalid_dataset_shape", field="file")
    if dtype.hasobject:
        raise DatasetError(
            f"{name} is an array of Python objects; they are not unpickled. Save plain numbers.", field="file"
        )
    if fortran and len(shape) > 1:
        raise DatasetError(
            f"{name} is stored in Fortran order. Save np.ascontiguousarray({name}).", field="file"
        )
    return tuple(shape), dtype


def _check_size(
    member: zipfile.ZipInfo, header: int, shape: tuple[int, ...], dtype: np.dtype[np.generic], name: str
) -> None:
    declared = math.prod(shape) * dtype.itemsize
    if any(n < 0 for n in shape) or header + declared != member.file_size:
        raise DatasetError(
            f"{name} declares the shape {shape}, {declared:,} bytes, but the file holds "
            f"{member.file_size - header:,}.",
            code="invalid_dataset_shape",
            field="file",
        )


def _image_shape(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> tuple[int, int, int]:
    problem = None
    if dtype != np.uint8:
        problem = f"x is of type {dtype}; it must be uint8, pixels from 0 to 255"
    elif len(shape) not in (3, 4) or min(shape) < 1:
        problem = f"x has the shape {shape}; it must be N x H x W x C, or N x H x W for grayscale"
    elif len(shape) == 4 and shape[3] > 4 and shape[1] in (1, 3):
        problem = f"x has the shape {shape}, channels first; save x.transpose(0, 2, 3, 1)"
    elif max(shape[1:3]) > MAX_SIDE or (len(shape) == 4 and shape[3] > 64):
        problem = f"x has the shape {shape}; at most {MAX_SIDE} x {MAX_SIDE} pixels of 64 channels are read"
    elif shape[0] > MAX_IMAGES or math.prod(shape[1:]) > MAX_IMAGE_BYTES:
        problem = (
            f"x has the shape {shape}; at most {MAX_IMAGES:,} images of {MAX_IMAGE_BYTES:,} bytes are read"
        )
    if problem:
        raise DatasetError(problem + ".", code="invalid_dataset_shape", field="file")
    return shape[1], shape[2], shape[3] if len(shape) == 4 else 1


def _check_labels(shape: tuple[int, ...], dtype: np.dtype[np.generic], images: int) -> None:
    if dtype.kind not in "iu":
        raise DatasetError(
            f"y is of type {dtype}; labels must be integers.", code="invalid_dataset_shape", field="file"
        )
    if shape not in ((images,), (images, 1)):
        raise DatasetError(
            f"y has the shape {shape}, but x holds {images} images; it must be ({images},).",
            code="invalid_dataset_shape",
            field="file",
        )


def _cut_off(index: int) -> DatasetError:
    return DatasetError(
        f"The .npz ends or is damaged at image {index}. Upload it again.", code="truncated_file", field="file"
    )
