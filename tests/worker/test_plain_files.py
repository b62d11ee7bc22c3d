from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.plain_files import open_plain


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """One of everything that a file's name may stand for."""
    (tmp_path / "file").write_text("plain")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_a_plain_file_is_opened(folder: int) -> None:
    before = open_descriptors()
    with open_plain("file", folder) as file:
        assert file.read() == b"plain"
    assert open_descriptors() == before


@pytest.mark.parametrize("name", ["folder", "link", "fifo", "none", ".", "\0"])
def test_what_is_none_is_refused_and_leaves_nothing_open(folder: int, name: str) -> None:
    before = open_descriptors()
    for _ in range(3):
        with pytest.raises((OSError, ValueError)):
            open_plain(name, folder)
    assert open_descriptors() == before
