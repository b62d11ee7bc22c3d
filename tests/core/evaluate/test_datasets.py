"""Evaluation sets: every form reads the same, and hostile or mistaken ones are refused by name."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import DatasetError
from core.evaluate import folder
from core.evaluate.datasets import ImageDataset, inspect_dataset, open_dataset
from core.networks import archive

RNG = np.random.default_rng(0)
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def pixels(n: int = 5, h: int = 8, w: int = 8, c: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (n, h, w, c), np.uint8)


def png(image_HWC: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image_HWC).save(stream, "PNG")
    return stream.getvalue()


def make_npz(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as stream:
        np.savez(stream, **arrays)
    return path


def make_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def make_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def read(dataset: ImageDataset, shape: tuple[int, int, int] = (3, 8, 8), size: int = 2) -> Any:
    batches = list(dataset.batches(shape, MEAN[: shape[0]], STD[: shape[0]], size))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def refused(path: Path, classes: list[str] | None = None) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        inspect_dataset(path, classes)
    assert caught.value.field
    return caught.value


# --- what is read -------------------------------------------------------------------------------


def test_every_container_reads_the_same_pixels_and_labels(tmp_path: Path) -> None:
    x_NHWC, y_N = pixels(6), [0, 0, 2, 2, 2, 5]
    files = {f"{label}_name/{i}.png": png(x) for i, (x, label) in enumerate(zip(x_NHWC, y_N, strict=True))}
    nested = {f"./top/{name}": data for name, data in files.items()}
    paths = [
        make_npz(tmp_path / "a", x=x_NHWC, y=np.array(y_N)),
        make_zip(tmp_path / "b", files),
        make_tar(tmp_path / "c", files),
        make_tar(tmp_path / "d", files, "w:gz"),
        make_zip(tmp_path / "e", {f"top/{name}": data for name, data in files.items()}),
        make_tar(tmp_path / "f", nested),
    ]
    expected = (torch.from_numpy(x_NHWC).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    for path in paths:
        dataset = open_dataset(path)
        x_NCHW, found_N = read(dataset)
        torch.testing.assert_close(x_NCHW, expected)
        assert found_N.tolist() == y_N and found_N.dtype is torch.int64 and len(dataset) == 6
        # Twice the same: batches may be asked for again.
        assert torch.equal(read(dataset, size=4)[0], x_NCHW)


def test_batches_have_the_size_asked_for_and_the_rest(tmp_path: Path) -> None:
    dataset = open_dataset(make_npz(tmp_path / "a", x=pixels(7), y=np.zeros(7, int)))
    assert [len(y) for _, y in dataset.batches((3, 8, 8), MEAN, STD, 3)] == [3, 3, 1]


def test_compressed_npz_and_grayscale(tmp_path: Path) -> None:
    x_NHW = pixels(4)[..., 0]
    with (tmp_path / "a").open("wb") as stream:
        np.savez_compressed(stream, x=x_NHW, y=np.arange(4, dtype=np.uint8)[:, None])
    dataset = open_dataset(tmp_path / "a")
    assert dataset.shape == (8, 8, 1)
    gray_NCHW, y_N = read(dataset, (1, 8, 8))
    colour_NCHW, _ = read(dataset)
    assert y_N.tolist() == [0, 1, 2, 3]
    assert torch.equal(gray_NCHW.expand(-1, 3, -1, -1), colour_NCHW)


def test_images_of_mixed_sizes_are_made_to_fit(tmp_path: Path) -> None:
    files = {
        "0/a.png": png(pixels(1, 40, 30)[0]),
        "1/b.png": png(pixels(1, 9, 12)[0]),
        "1/c.png": png(pixels(1)[0]),
    }
    dataset = open_dataset(make_zip(tmp_path / "a", files))
    assert read(dataset)[0].shape == (3, 3, 8, 8)
    assert "centre crop" in dataset.preprocessing((3, 8, 8))


def test_junk_that_archives_gather_is_ignored(tmp_path: Path) -> None:
    image = png(pixels(1)[0])
    files = {
        "0/a.png": image,
        "1/b.png": image,
        "README.txt": b"hi",
        "__MACOSX/0/._a.png": b"x",
        "0/.b.png": b"x",
    }
    assert inspect_dataset(make_zip(tmp_path / "a", files))["images"] == 2


# --- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folders", "classes", "labels"),
    [
        (["0", "2", "7"], None, [0, 2, 7]),
        (["0003", "0010"], None, [3, 10]),
        (["1_dog", "4-cat"], None, [1, 4]),
        (["1_dog", "4_cat"], ["a", "b", "c", "d", "e"], [1, 4]),
        (["cat", "dog"], ["dog", "bird", "cat"], [2, 0]),
        (["cat", "dog", "ant"], None, [1, 2, 0]),
        (["0", "dog"], None, [0, 1]),
    ],
)
def test_labels_come_from_numbers_then_classes_then_order(
    tmp_path: Path, folders: list[str], classes: list[str] | None, labels: list[int]
) -> None:
    image = png(pixels(1)[0])
    path = make_zip(tmp_path / "a", {f"{name}/x.png": image for name in folders})
    assert open_dataset(path, classes).labels.tolist() == labels


@pytest.mark.parametrize(
    ("folders", "classes", "expected"),
    [
        (["dog", "cat"], None, ["cat", "dog"]),
        (["dog", "cat"], ["dog", "cat"], ["dog", "cat"]),
        (["0_zebra", "1_ape"], None, ["0_zebra", "1_ape"]),
        (["dog"], ["cat", "dog"], ["cat", "dog"]),  # a set may lack classes
        (["0", "1"], None, None),  # numbers are no names
        (["0", "1"], ["cat", "dog"], ["cat", "dog"]),
        (["ape", "cat", "dog"], None, None),
        (["cat"], None, None),
        (["cat"], ["cat", "dog", "emu"], None),
        (["1_ape", "2_cat"], None, None),
        (["cat", "d" * 256], None, None),
    ],
)
def test_class_names_are_all_known_or_none(
    tmp_path: Path, folders: list[str], classes: list[str] | None, expected: list[str] | None
) -> None:
    path = make_zip(tmp_path / "s.zip", {f"{folder}/a.png": png(pixels(1)[0]) for folder in folders})
    assert open_dataset(path, classes).class_names(2) == expected


def test_an_npz_has_the_class_names_that_were_given(tmp_path: Path) -> None:
    path = make_npz(tmp_path / "s.npz", x=pixels(3), y=np.array([0, 1, 0]))
    assert open_dataset(path).class_names(2) is None
    assert open_dataset(path, ["cat", "dog"]).class_names(2) == ["cat", "dog"]


def test_a_single_class_is_not_mistaken_for_a_top_level_folder(tmp_path: Path) -> None:
    image = png(pixels(1)[0])
    path = make_zip(tmp_path / "a", {"7/a.png": image, "7/b.png": image})
    assert open_dataset(path).labels.tolist() == [7, 7]


def test_folders_that_no_class_names(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a", {"cat/a.png": png(pixels(1)[0]), "cow/a.png": png(pixels(1)[0])})
    error = refused(path, ["cat", "dog"])
    assert (error.code, error.field) == ("invalid_dataset", "classes") and "cow" in error.detail


def test_labels_are_checked_against_the_network(tmp_path: Path) -> None:
    dataset = open_dataset(make_npz(tmp_path / "a", x=pixels(3), y=np.array([0, 9, 4])))
    dataset.check(10, (3, 32, 32))
    with pytest.raises(DatasetError, match="label 9") as caught:
        dataset.check(9, (3, 32, 32))
    assert caught.value.code == "labels_out_of_range"


def test_images_are_checked_against_the_network_before_anything_is_computed(tmp_path: Path) -> None:
    dataset = open_dataset(make_npz(tmp_path / "a", x=pixels(3, 8, 8, 2), y=np.arange(3)))
    dataset.check(10, (2, 8, 8))
    with pytest.raises(DatasetError, match="2 channels, but the network expects 3") as caught:
        dataset.check(10, (3, 8, 8))
    assert (caught.value.code, caught.value.field) == ("invalid_dataset_shape", "evaluation.dataset_id")
    with pytest.raises(DatasetError, match="cannot be resized to 64x64"):
        dataset.check(10, (2, 64, 64))


@pytest.mark.parametrize(
    ("labels", "classes"), [([0, -1], None), ([0, 2], ["a", "b"]), ([0, 2**63 - 1], None)]
)
def test_labels_that_no_network_has(tmp_path: Path, labels: list[int], classes: list[str] | None) -> None:
    path = make_npz(tmp_path / "a", x=pixels(2), y=np.array(labels))
    assert refused(path, classes).code == "labels_out_of_range"


# --- inspection ---------------------------------------------------------------------------------


def test_the_inspection(tmp_path: Path) -> None:
    image = png(pixels(1)[0])
    path = make_tar(tmp_path / "a", {"0007/a.png": image, "0007/b.png": image, "2_cat/c.png": image})
    assert inspect_dataset(path) == {
        "images": 3,
        "shape": [8, 8, 3],
        "classes": 2,
        "counts": {"2_cat": 1, "7": 2},
    }
    path = make_npz(tmp_path / "b", x=pixels(3)[..., 0], y=np.array([1, 1, 0]))
    found = inspect_dataset(path, ["cat", "dog"])
    assert found == {"images": 3, "shape": [8, 8, 1], "classes": 2, "counts": {"cat": 1, "dog": 2}}


def test_the_shape_of_mixed_sizes_is_null(tmp_path: Path) -> None:
    files = {"0/a.png": png(pixels(1)[0]), "0/b.png": png(pixels(1, 9, 9)[0])}
    assert inspect_dataset(make_zip(tmp_path / "a", files))["shape"] is None


# --- what is refused ----------------------------------------------------------------------------


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert refused(tmp_path / "a").code == "empty_file"


@pytest.mark.parametrize("content", [b"not an archive at all", bytes(2000), b"PNG" * 500])
def test_a_file_that_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert refused(tmp_path / "a").code == "invalid_dataset"


@pytest.mark.parametrize("kind", ["npz", "zip", "tar", "tgz"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file(tmp_path: Path, kind: str, share: float) -> None:
    path, x_NHWC = tmp_path / "a", pixels(20, 16, 16)
    files = {f"{i % 3}/{i}.png": png(x) for i, x in enumerate(x_NHWC)}
    if kind == "npz":
        make_npz(path, x=x_NHWC, y=np.zeros(20, int))
    elif kind == "zip":
        make_zip(path, files)
    else:
        make_tar(path, files, "w" if kind == "tar" else "w:gz")
    whole = path.read_bytes().rstrip(b"\0")
    path.write_bytes(whole[: int(len(whole) * share)])
    assert refused(path).code in ("truncated_file", "invalid_dataset")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_loses_images_is_refused_and_not_read_as_a_smaller_set(tmp_path: Path, mode: str) -> None:
    files = {f"{i}/a.png": png(x) for i, x in enumerate(pixels(3))}
    path = make_tar(tmp_path / "a", files)
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1].offset
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[last] ^= 1
    pack = gzip.compress if mode == "w:gz" else bytes
    # Cut between two members, within a header, and whole but with a header that does not add up.
    for content in (whole[:last], whole[: last + 100], bytes(broken)):
        path.write_bytes(pack(content))
        assert refused(path).code == "truncated_file"
    path.write_bytes(pack(whole))
    assert inspect_dataset(path)["images"] == 3


def test_a_damaged_member_is_noticed(tmp_path: Path) -> None:
    path = make_npz(tmp_path / "a", x=pixels(20, 16, 16), y=np.zeros(20, int))
    whole = bytearray(path.read_bytes())
    whole[4000] ^= 1
    path.write_bytes(whole)
    assert refused(path).code == "truncated_file"


@pytest.mark.parametrize(
    ("arrays", "code", "words"),
    [
        ({"x": pixels(2).astype(np.float32), "y": [0, 1]}, "invalid_dataset_shape", "uint8"),
        ({"x": pixels(2)[0, 0], "y": [0, 1]}, "invalid_dataset_shape", "N x H x W x C"),
        ({"x": pixels(2, 3, 32, 32), "y": [0, 1]}, "invalid_dataset_shape", "transpose(0, 2, 3, 1)"),
        ({"x": pixels(2), "y": [0, 1, 2]}, "invalid_dataset_shape", "2 images"),
        ({"x": pixels(2), "y": [0.0, 1.0]}, "invalid_dataset_shape", "integers"),
        ({"x": pixels(2), "y": [[0, 1], [1, 0]]}, "invalid_dataset_shape", "(2,)"),
        ({"x": pixels(0), "y": np.zeros(0, int)}, "invalid_dataset_shape", "shape"),
        ({"x": pixels(2)}, "invalid_dataset", "'y'"),
        ({"images": pixels(2), "y": [0, 1]}, "invalid_dataset", "'images'"),
        ({"x": np.asfortranarray(pixels(2)), "y": [0, 1]}, "invalid_dataset", "Fortran"),
        ({"x": np.array([{}, {}]), "y": [0, 1]}, "invalid_dataset", "objects"),
        ({"x": pixels(2), "y": np.array(["a", {}], object)}, "invalid_dataset", "objects"),
    ],
)
def test_arrays_of_the_wrong_kind(tmp_path: Path, arrays: dict[str, Any], code: str, words: str) -> None:
    error = refused(make_npz(tmp_path / "a", **{k: np.asarray(v) for k, v in arrays.items()}))
    assert error.code == code and words in error.detail


def _npy(shape: tuple[int, ...], data: bytes) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


def test_a_header_that_declares_more_than_the_file_holds(tmp_path: Path) -> None:
    y = _npy((2,), b"\0\1")
    path = make_zip(tmp_path / "a", {"x.npy": _npy((2, 2000, 2000, 3), bytes(24)), "y.npy": y})
    assert refused(path).code == "invalid_dataset_shape"
    path = make_zip(tmp_path / "b", {"x.npy": b"\x93NUMPY\x01\0\x04\0junk", "y.npy": y})
    assert refused(path).code == "invalid_dataset"


def test_a_zip_bomb(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", _npy((50, 1024, 1024), bytes(50 * 2**20)))
        file.writestr("y.npy", _npy((50,), bytes(50)))
    assert refused(tmp_path / "a").code == "archive_bomb"


def test_a_gzipped_tar_bomb(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a", {"0/a.png": png(pixels(1)[0]), "junk.bin": bytes(40 * 2**20)}, "w:gz")
    assert refused(path).code == "archive_bomb"


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    files = {f"0/{i}.png": png(pixels(1)[0]) for i in range(6)}
    assert refused(make_zip(tmp_path / "a", files)).code == "archive_bomb"
    assert refused(make_tar(tmp_path / "b", files)).code == "archive_bomb"


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8_000, 13_000, 60_000])
def test_an_image_that_decodes_to_too_much(tmp_path: Path, side: int) -> None:
    path = make_zip(tmp_path / "a", {"0/a.png": _png_header(side, side)})
    assert refused(path).code == "archive_bomb"


def test_an_image_that_is_damaged_or_none_is_named(tmp_path: Path) -> None:
    good = png(pixels(1, 64, 64)[0])
    for bad in (b"not an image", good[: len(good) // 2]):
        error = refused(make_zip(tmp_path / "a", {"0/bad.png": bad}))
        assert error.code == "invalid_dataset" and "0/bad.png" in error.detail


@pytest.mark.parametrize("name", ["../0/a.png", "/0/a.png", "0/../../a.png"])
def test_paths_that_leave_the_archive(tmp_path: Path, name: str) -> None:
    files = {"0/ok.png": png(pixels(1)[0]), name: b"x"}
    assert refused(make_zip(tmp_path / "a", files)).code == "invalid_dataset"
    assert refused(make_tar(tmp_path / "b", files)).code == "invalid_dataset"


def test_links_and_devices_in_a_tar_are_ignored(tmp_path: Path) -> None:
    image = png(pixels(1)[0])
    with tarfile.open(tmp_path / "a", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo(f"0/odd{kind.decode()}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        member = tarfile.TarInfo("0/real.png")
        member.size = len(image)
        tar.addfile(member, io.BytesIO(image))
    dataset = open_dataset(tmp_path / "a")
    assert len(dataset) == 1 and read(dataset)[0].shape == (1, 3, 8, 8)


def test_the_same_name_twice(tmp_path: Path) -> None:
    image = png(pixels(1)[0])
    with tarfile.open(tmp_path / "a", "w") as tar:
        for _ in range(2):
            member = tarfile.TarInfo("0/a.png")
            member.size = len(image)
            tar.addfile(member, io.BytesIO(image))
    assert refused(tmp_path / "a").code == "invalid_dataset"


def test_a_header_that_claims_a_huge_name_is_not_read(tmp_path: Path) -> None:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, folder.MAX_IMAGE_BYTES * 2
    (tmp_path / "a").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    assert refused(tmp_path / "a").code in ("invalid_dataset", "truncated_file")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.png"], "no folder"),
        (["0/a.txt"], "no images"),
        (["train/0/a.png", "test/0/b.png"], "several sets"),
    ],
)
def test_folders_of_the_wrong_form(tmp_path: Path, names: list[str], words: str) -> None:
    error = refused(make_zip(tmp_path / "a", {name: png(pixels(1)[0]) for name in names}))
    assert error.code == "invalid_dataset" and words in error.detail


def test_an_archive_in_the_archive(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a", {"0/a.png": png(pixels(1)[0]), "more.zip": b"PK"})
    assert refused(path).code == "archive_bomb"


@pytest.mark.parametrize("kind", ["npz", "compressed", "zip", "tar", "tgz"])
def test_no_damage_raises_anything_but_a_dataset_error(tmp_path: Path, kind: str) -> None:
    path, chance, x_NHWC = tmp_path / "a", random.Random(0), pixels(3)
    files = {f"{i}/a.png": png(x) for i, x in enumerate(x_NHWC)}
    if kind == "npz":
        make_npz(path, x=x_NHWC, y=np.arange(3))
    elif kind == "compressed":
        with path.open("wb") as stream:
            np.savez_compressed(stream, x=x_NHWC, y=np.arange(3))
    elif kind == "zip":
        make_zip(path, files)
    else:
        make_tar(path, files, "w" if kind == "tar" else "w:gz")
    whole = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 2, 8])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(DatasetError):
            inspect_dataset(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w", method) as file:
        file.writestr("0/a.png", png(pixels(1)[0]))
    assert refused(tmp_path / "a").code == "invalid_dataset"
