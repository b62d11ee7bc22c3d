"""The end of a zip is read as torch's reader and Python's both read it, or not at all."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from core.networks.zip_ends import Malformed, read_ends
from tests.hostile import archives
from tests.integration.bad_files import saved, zipped

SMALL = zipped({"archive/a": b"one", "archive/b": b"two"})


def read(folder: Path, data: bytes) -> tuple[int, int, int]:
    (folder / "a.zip").write_bytes(data)
    ends = read_ends(folder / "a.zip")
    return ends.directory, ends.directory_bytes, ends.members


@pytest.mark.parametrize(
    "data", [SMALL, saved({"w": torch.ones(3)}), zipped({})], ids=["zip", "torch", "empty"]
)
def test_it_agrees_with_python(tmp_path: Path, data: bytes) -> None:
    directory, length, members = read(tmp_path, data)
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        assert (directory, members) == (file.start_dir, len(file.infolist()))
    assert data[directory : directory + 4] in (b"PK\1\2", b"PK\5\6")
    assert directory + length <= len(data) - 22


def test_a_comment_is_no_end(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("a", b"one")
        file.comment = b"made by hand"
    assert read(tmp_path, (tmp_path / "b.zip").read_bytes())[2] == 1


def test_more_than_65535_members_are_counted(tmp_path: Path) -> None:
    assert read(tmp_path, archives.many_entries(70_000))[2] == 70_000


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "missing"),
        (SMALL[:-1], "missing"),
        (SMALL + b"x", "follows"),
        (b"x" + SMALL, "does not stand before"),
        (archives.two_ends(SMALL, SMALL), "follows"),
        (archives.zip64_elsewhere(SMALL), "two ends"),
        (archives.patched(SMALL, b"PK\5\6", 4, b"\1\0"), "part of several"),
        (archives.patched(SMALL, b"PK\5\6", 8, b"\xff\0\xff\0"), "too small"),
    ],
)
def test_what_two_readers_could_read_in_two_ways(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        read(tmp_path, data)
