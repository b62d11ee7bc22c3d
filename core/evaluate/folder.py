"""Evaluation sets as a zip or tar of an image folder: one folder a class, images inside.

Nothing is unpacked to disk: images are decoded one at a time, straight from the archive.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from core.errors import DatasetError
from core.evaluate.preprocess import Pixels
from core.networks import archive
from core.networks.foreign import shown
from core.spec import MAX_CLASSES

MAX_IMAGE_BYTES = 64 * 2**20
MAX_IMAGE_PIXELS = 50_000_000
_MAX_TAR_HEADER_BYTES = 2**20
_MAX_FOLDER_CHARACTERS = 4 * 2**20  # the names of all classes, which go into the database
_SCAN = b"\xff\xda"  # stuffing keeps these two bytes out of a JPEG's data
_MAX_SCANS = 100  # of a progressive JPEG, which encoders write in ten; each is a pass over all pixels
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm"}
_DECODERS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_LABEL = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class FolderImages:
    """`members` and `labels` (int64 [N]) in the archive's order; `names` gives folders by label."""

    path: Path
    is_tar: bool
    members: tuple[str, ...]
    labels: NDArray[np.int64]
    names: dict[int, str]

    def images(self) -> Iterator[Pixels]:
        """Every image as uint8 RGB [H, W, 3]. Raises DatasetError naming the image that is damaged."""
        for name, data in self.files():
            yield decode(name, data)

    def files(self) -> Iterator[tuple[str, bytes]]:
        wanted = set(self.members)
        try:
            if self.is_tar:
                with _open_tar(self.path, MAX_IMAGE_BYTES) as tar:
                    for member in _members(tar):
                        if member.isfile() and member.name in wanted:
                            stream = tar.extractfile(member)
                            yield member.name, stream.read() if stream else b""
            else:
                with zipfile.ZipFile(self.path) as file:
                    for name in self.members:
                        yield name, file.read(name)
        except (tarfile.TarError, *archive.READ_ERRORS) as reason:
            raise _cut_off() from reason


def open_folder(
    path: Path, classes: Sequence[str] | None, members: list[zipfile.ZipInfo] | None
) -> FolderImages:
    """Lists the archive's images and their labels. Raises DatasetError.

    `members` are the checked members of a zip; None means that the file should be a tar.

    Labels: when every folder's name begins with an integer, that integer; else the folder's place in
    `classes`; else its place among the folders in sorted order. Folders that hold everything else
    are looked through.
    """
    every = _tar_names(path) if members is None else _zip_names(members)
    names = [name for name in every if _is_image(name)]
    if not names:
        raise DatasetError(
            f"The archive holds no images ({', '.join(sorted(_SUFFIXES))}). "
            "It needs one folder a class, images inside.",
            field="file",
        )
    folders = _folders(names)
    every_folder = sorted(set(folders))
    if len(every_folder) > MAX_CLASSES or sum(map(len, every_folder)) > _MAX_FOLDER_CHARACTERS:
        raise DatasetError(
            f"The archive has {len(every_folder):,} folders; each is taken for a class.", field="file"
        )
    label_of = _labels(every_folder, classes)
    labels = np.array([label_of[folder] for folder in folders], np.int64)
    # "0007" is label 7; "7_frog" says more than its number.
    shown = {label: str(label) if folder.isdigit() else folder for folder, label in label_of.items()}
    return FolderImages(path, members is None, tuple(names), labels, shown)


def decode(name: str, data: bytes) -> Pixels:
    """The image file as uint8 RGB [H, W, 3]. Raises DatasetError."""
    try:
        with _open_image(name, data) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, zlib.error) as reason:
        raise DatasetError(f"The image {name} is damaged: {shown(str(reason))}.", field="file") from reason


def image_size(name: str, data: bytes) -> tuple[int, int]:
    """(H, W) from the image's header alone. Raises DatasetError."""
    with _open_image(name, data) as image:
        return image.height, image.width


def _open_image(name: str, data: bytes) -> Image.Image:
    if data[:2] == b"\xff\xd8" and data.count(_SCAN) > _MAX_SCANS:
        raise _too_large(name, f"{data.count(_SCAN)} scans")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_DECODERS)
    except Image.DecompressionBombError as reason:
        raise _too_large(name, str(reason)) from reason
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as reason:
        raise DatasetError(
            f"{name} is not an image that can be read ({', '.join(_DECODERS)}).", field="file"
        ) from reason
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise _too_large(name, f"{image.width}x{image.height} pixels")
    return image


def _zip_names(members: list[zipfile.ZipInfo]) -> list[str]:
    for member in members:
        _check_image_bytes(member.filename, member.file_size)
    return [member.filename for member in members]


def _tar_names(path: Path) -> list[str]:
    """Regular files of the tar; links and devices are ignored, paths that leave the folder refused."""
    limit = min(archive.MAX_TOTAL_BYTES, archive.RATIO_FREE_BYTES + archive.MAX_RATIO * path.stat().st_size)
    names: list[str] = []
    seen: set[str] = set()
    try:
        with _open_tar(path, _MAX_TAR_HEADER_BYTES) as tar:
            for count, member in enumerate(_members(tar)):
                # Checked before the next step, which for a gzipped tar decompresses this member.
                if member.offset_data + member.size > limit or count > archive.MAX_MEMBERS:
                    raise DatasetError(
                        "The archive was not opened: it unpacks to too much.",
                        code="archive_bomb",
                        field="file",
                    )
                if not member.isfile():
                    continue
                if archive.is_unsafe_path(member.name):
                    raise archive.unsafe_path(member.name, DatasetError, "invalid_dataset")
                if member.issparse():  # a few bytes would stand for any number of zeros
                    raise DatasetError(f"{member.name} is a sparse file. Pack plain ones.", field="file")
                _check_image_bytes(member.name, member.size)
                if member.name in seen:
                    raise DatasetError(f"The archive holds {member.name!r} twice.", field="file")
                seen.add(member.name)
                names.append(member.name)
            _check_tar_end(tar)
    except (tarfile.TarError, *archive.READ_ERRORS) as reason:
        if not names:
            raise DatasetError(
                "The file is neither an .npz nor a zip or tar archive of images.", field="file"
            ) from reason
        raise _cut_off() from reason
    return names


def _check_tar_end(tar: tarfile.TarFile) -> None:
    """tarfile takes a header that is damaged or cut off for the end: the images behind it would be lost."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("the archive's end mark is missing")


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Every member, none of which is kept: a gzipped tar holds millions in a few megabytes."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        yield member


class _Bounded(io.BufferedReader):
    """Keeps one read small: a tar's own headers may claim any size, and would be read whole."""

    def __init__(self, source: io.RawIOBase | gzip.GzipFile, limit: int) -> None:
        super().__init__(source)
        self._limit = limit

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= self._limit:
            raise tarfile.ReadError("a header claims too many bytes")
        return super().read(size)


@contextmanager
def _open_tar(path: Path, limit: int) -> Iterator[tarfile.TarFile]:
    """A tar, plain or gzipped, no more than `limit` bytes of it read at once.

    Other compressions unpack too far from too little.
    """
    with ExitStack() as stack:
        raw = stack.enter_context(path.open("rb", buffering=0))
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        source = stack.enter_context(gzip.GzipFile(fileobj=raw)) if zipped else raw
        bounded = stack.enter_context(_Bounded(source, limit))
        yield stack.enter_context(tarfile.open(fileobj=bounded, mode="r:"))


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in _SUFFIXES and not hidden


def _folders(names: list[str]) -> list[str]:
    """Each image's class folder: its first folder, once those that hold everything are taken away."""
    parts = [PurePosixPath(name).parts for name in names]
    loose = next((name for name, path in zip(names, parts, strict=True) if len(path) < 2), None)
    if loose is not None:
        raise DatasetError(
            f"The image {loose} stands in no folder. Each class needs a folder with its images inside.",
            field="file",
        )
    while len({path[0] for path in parts}) == 1 and min(map(len, parts)) > 2:
        parts = [path[1:] for path in parts]
    folders = [path[0] for path in parts]
    if len(set(folders)) > 1 and {folder.lower() for folder in folders} <= _SPLITS:
        raise DatasetError(
            f"The archive holds several sets ({', '.join(sorted(set(folders)))}). "
            "Upload one, the one to measure on.",
            field="file",
        )
    return folders


def _labels(folders: list[str], classes: Sequence[str] | None) -> dict[str, int]:
    numbers = {folder: _LABEL.match(folder) for folder in folders}
    if all(numbers.values()):
        labels = {folder: int(match[0]) for folder, match in numbers.items() if match}
        if max(labels.values()) >= MAX_CLASSES:
            raise DatasetError(
                f"A folder's number is too large; a network has at most {MAX_CLASSES:,} classes.",
                code="labels_out_of_range",
                field="file",
            )
        return labels
    if classes is None:
        return {folder: index for index, folder in enumerate(folders)}
    places = {name: index for index, name in enumerate(classes)}
    unknown = [folder for folder in folders if folder not in places]
    if unknown:
        raise DatasetError(
            f"The folders {', '.join(unknown[:5])} are not in the list of classes.", field="classes"
        )
    return {folder: places[folder] for folder in folders}


def _check_image_bytes(name: str, size: int) -> None:
    if size > MAX_IMAGE_BYTES:
        raise DatasetError(
            f"{name} has {size:,} bytes; at most {MAX_IMAGE_BYTES:,} are read.",
            code="archive_bomb",
            field="file",
        )


def _too_large(name: str, what: str) -> DatasetError:
    return DatasetError(
        f"The image {name} is too large ({what}); at most {MAX_IMAGE_PIXELS:,} pixels are decoded.",
        code="archive_bomb",
        field="file",
    )


def _cut_off() -> DatasetError:
    return DatasetError(
        "The archive is damaged or was cut off. Upload it again.", code="truncated_file", field="file"
    )
