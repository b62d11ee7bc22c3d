from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import pytest

import core.pipeline
from core.errors import RunError
from store.blobs import LocalBlobs, make_blobs
from store.errors import BlobCorrupt, BlobMissing, Unavailable
from tests.store.blob_stores import damage, everything, put
from worker.failures import describe
from worker.workspace import _NAME, MEDIA_TYPES, Workspace, remove_abandoned, workspace

JSON = "application/json"


def test_what_was_brought_outlives_a_delete(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    with blobs.writer() as writer:
        writer.write(b"weights")
        sha256 = writer.commit().sha256
    with workspace(tmp_path / "work", "job_0-1") as space:
        path = space.bring(blobs, sha256)
        blobs.delete(sha256)
        assert path is not None and path.read_bytes() == b"weights"
        assert space.bring(blobs, sha256) == path
    with (
        workspace(tmp_path / "work", "job_0-2") as space,
        pytest.raises(BlobMissing, match="Upload it again"),
    ):
        space.bring(blobs, sha256)


def test_other_bytes_than_those_that_were_stored_are_not_computed_on(blobs_url: str, tmp_path: Path) -> None:
    blobs = make_blobs(blobs_url)
    sha256 = put(blobs, b"weights")
    with workspace(tmp_path / "work", "job_0-1") as space:
        damage(blobs, sha256)
        with pytest.raises(BlobCorrupt) as raised:
            space.bring(blobs, sha256)
        assert describe(raised.value)["retryable"] and describe(raised.value)["code"] == "blob_corrupt"
        put(blobs, b"weights")
        path = space.bring(blobs, sha256)
        assert path is not None and path.read_bytes() == b"weights"


def test_half_a_file_is_not_left_as_if_it_were_whole(blobs_url: str, tmp_path: Path) -> None:
    blobs = make_blobs(blobs_url)
    sha256 = put(blobs, b"x" * (3 << 20))
    with workspace(tmp_path / "work", "job_0-1") as space:
        answers = iter([True, False])
        assert space.bring(blobs, sha256, lambda: next(answers)) is None
        path = space.bring(blobs, sha256)
        assert path is not None and path.read_bytes() == b"x" * (3 << 20)


def replace_the_folder(output: Path, foreign: Path) -> None:
    output.rename(output.with_name("moved"))
    output.symlink_to(foreign)


@pytest.mark.parametrize(
    "misdeed",
    [
        replace_the_folder,
        lambda output, foreign: (output / "secret").symlink_to(foreign / "secret"),
        lambda output, foreign: os.mkfifo(output / "secret"),
        lambda output, foreign: (output / "secret").mkdir(),
        lambda output, foreign: None,
    ],
    ids=["folder", "link", "pipe", "directory", "nothing"],
)
def test_only_plain_files_in_the_first_output_are_published(tmp_path: Path, misdeed: Any) -> None:
    foreign, blobs = tmp_path / "foreign", LocalBlobs(tmp_path / "blobs")
    foreign.mkdir()
    (foreign / "secret").write_text("the worker's environment")
    with workspace(tmp_path / "work", "job_0-1") as space:
        misdeed(space.output, foreign)
        named = {"name": "secret", "path": str(space.output / "secret"), "media_type": JSON}
        with pytest.raises(RunError, match="no such file"):
            space.publish(blobs, [named], lambda: True)
    assert not list(blobs.list_older(0))


@pytest.mark.parametrize(
    "path", ["{output}/../scratch/a", "{output}/sub/a", "a", "{output}/..", "{output}/a\0"]
)
def test_only_files_of_the_output_itself_are_published(tmp_path: Path, path: str) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    with workspace(tmp_path / "work", "job_0-1") as space:
        (space.output / "sub").mkdir()
        for folder in (space.scratch, space.output / "sub"):
            (folder / "a").write_text("a")
        named = {"name": "a", "path": path.format(output=space.output), "media_type": JSON}
        with pytest.raises(RunError, match="no such file"):
            space.publish(blobs, [named], lambda: True)


def test_what_core_publishes_is_what_may_be_published() -> None:
    source = Path(core.pipeline.__file__).read_text()
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [call.args for call in calls if ast.unparse(call.func) == "ArtifactFile"]
    assert {ast.literal_eval(kind) for _, _, kind in named} == set(MEDIA_TYPES)
    assert all(_NAME.fullmatch(ast.literal_eval(name)) for name, _, _ in named)


@pytest.mark.parametrize(
    "kind",
    ["text/html", "image/svg+xml", "text/html\r\nset-cookie: a=b", "", "x" * 1000, None, ["image/png"]],
)
def test_files_of_other_kinds_than_results_are_not_published(tmp_path: Path, kind: Any) -> None:
    """They would be served as such from the service's own address."""
    blobs = LocalBlobs(tmp_path / "blobs")
    with workspace(tmp_path / "work", "job_0-1") as space:
        (space.output / "a").write_text("<script>")
        named = {"name": "a", "path": str(space.output / "a"), "media_type": kind}
        with pytest.raises(RunError, match="not published"):
            space.publish(blobs, [named], lambda: True)
    assert not list(blobs.list_older(0))


@pytest.mark.parametrize(
    "names",
    [
        ["x" * 129],
        [""],
        [".."],
        [".bashrc"],
        ["a/b"],
        ["a\\b"],
        ["a\r\nb"],
        ["a\0"],
        ["\u202efdp.exe"],
        ["a", "a"],
    ],
)
def test_names_that_nobody_could_save_under_are_not_published(tmp_path: Path, names: list[str]) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    with workspace(tmp_path / "work", "job_0-1") as space:
        (space.output / "file").write_text("a")
        files = [{"name": name, "path": str(space.output / "file"), "media_type": JSON} for name in names]
        with pytest.raises(RunError, match="no result may be named"):
            space.publish(blobs, files, lambda: True)
        longest = "report-1.0_" + "x" * 117
        named = {"name": longest, "path": str(space.output / "file"), "media_type": JSON}
        assert [row.name for row in space.publish(blobs, [named], lambda: True) or ()] == [longest]


class Outage:
    """A blob folder that is lost, and comes back when it has been asked for `patience` times."""

    def __init__(self, blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch, patience: int) -> None:
        monkeypatch.setattr("worker.patience.PAUSES", (0.0,) * 4)
        self._incoming, self._away = blobs.incoming, blobs.incoming.with_name("away")
        self._incoming.rename(self._away)
        self.left = patience

    def go_on(self) -> bool:
        """Asked before the file, and after each pause."""
        self.left -= 1
        if self.left == 0:
            self._away.rename(self._incoming)
        return True


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


def result(space: Workspace) -> list[dict[str, Any]]:
    path = space.output / "model.onnx"
    path.write_bytes(b"weights")
    return [{"name": path.name, "path": str(path), "media_type": "application/octet-stream"}]


def test_a_store_that_comes_back_costs_no_attempt(
    blobs: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(blobs, monkeypatch, patience=3)
    with workspace(tmp_path / "work", "job_0-1") as space:
        published = space.publish(blobs, result(space), outage.go_on)
    assert published is not None and outage.left == 0
    assert everything(blobs) == [artifact.blob_sha256 for artifact in published]


def test_a_store_that_stays_away_is_given_up(
    blobs: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(blobs, monkeypatch, patience=10)
    with workspace(tmp_path / "work", "job_0-1") as space, pytest.raises(Unavailable):
        space.publish(blobs, result(space), outage.go_on)
    assert outage.left == 4, "asked before it, after each of four pauses, and at the end"


def test_who_need_not_publish_any_more_does_not_wait(
    blobs: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(blobs, monkeypatch, patience=10)
    with workspace(tmp_path / "work", "job_0-1") as space:
        assert space.publish(blobs, result(space), lambda: outage.go_on() and outage.left > 8) is None
    assert outage.left == 7, "asked before it, after the first pause, and at the end"


def test_one_that_cannot_be_removed_does_not_keep_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("job_0-1", "job_0-2", "job_0-3"):
        (tmp_path / name).mkdir()
    (tmp_path / "job_0-1.lock").mkdir()  # as good as one that belongs to somebody else
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"job_0-1", "job_0-1.lock"}
    assert "job_0-1 cannot be removed" in caplog.text
