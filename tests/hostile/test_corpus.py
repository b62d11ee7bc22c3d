"""Every hostile file through the real inspection, in the real child process with its limits.

What must come of each: a refusal that a person understands, nothing run, nothing written, nothing
reached, little memory, and a worker that goes on.
"""

from __future__ import annotations

import io
import multiprocessing
import pickle
import re
import zipfile
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

from tests.hostile import programs
from tests.hostile.cases import state
from tests.hostile.conftest import Inspector
from tests.hostile.corpus import CORPUS, TABLES
from tests.integration.bad_files import saved, zipped

MOST_KIBIBYTES = 1 << 20  # beside what torch itself takes
# Nothing of the inside: no traceback, no path, no class, no address.
_INSIDE = re.compile(r"Traceback|File \"|/tmp/|/work/|/home/|<class|<built-in|object at 0x|\bcore\.|Error\(")


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_file_is_refused(inspector: Inspector, tmp_path: Path, name: str) -> None:
    case, marker = CORPUS[name], tmp_path / "it-ran"
    row, did = inspector.look(case.kind, case.make(marker))
    assert row.state == "rejected", row.inspection
    assert row.error is not None
    assert (row.error["code"], row.error["retryable"]) == (case.code, False), row.error
    detail = row.error["detail"]
    assert 20 < len(detail) < 1000 and detail.isprintable() and detail.endswith("."), detail
    assert not _INSIDE.search(detail), detail
    assert row.error["field"] in ("file", "architecture"), row.error
    assert not marker.exists()
    assert did["events"] == []
    assert did["kibibytes"] < MOST_KIBIBYTES, did


def test_no_name_stands_for_two_files() -> None:
    assert len(CORPUS) == sum(map(len, TABLES)) >= 200


def test_what_no_inspection_may_do_would_be_seen(inspector: Inspector) -> None:
    row, did = inspector.look("checkpoint", b"any file", "run_programs")
    assert row.state == "ready"
    seen = {event.partition(" ")[0] for event in did["events"]}
    assert {"subprocess.Popen", "pickle.find_class", "open"} <= seen
    assert did["kibibytes"] > 200_000


@pytest.mark.parametrize("name", programs.RUNNABLE)
def test_the_programs_run_where_pickles_are_trusted(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "it-ran"
    process = multiprocessing.get_context("fork").Process(
        target=_unpickle, args=(programs.RUNNABLE[name](marker),)
    )
    process.start()
    process.join(30)
    assert marker.exists()


def _unpickle(program: bytes) -> None:
    pickle.loads(program)


def test_the_worker_lives_through_all_of_it(inspector: Inspector) -> None:
    """After the files above: the same server of children, and good files are still ready."""
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    row, did = inspector.look("checkpoint", saved(state()))
    assert (row.state, row.error) == ("ready", None)
    assert did
    assert forkserver._forkserver._forkserver_pid == server  # type: ignore[attr-defined]
    assert not list((inspector.folder / "work").iterdir())


def test_denormal_weights_are_weights(inspector: Inspector) -> None:
    tiny = {
        key: value * 1e-40 if value.is_floating_point() and "var" not in key else value
        for key, value in state().items()
    }
    assert any(0 < float(value.abs().max()) < torch.finfo(torch.float32).tiny for value in tiny.values())
    row, _ = inspector.look("checkpoint", saved(tiny))
    assert (row.state, row.error) == ("ready", None)


def test_a_checkpoint_with_what_training_leaves_beside_it_is_still_read(inspector: Inspector) -> None:
    """The scan follows everything that torch.save writes for a usual checkpoint."""
    optimizer = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3)}},
        "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "maximize": False}],
    }
    checkpoint = {
        "model": {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in state().items()},
        "optimizer": optimizer,
        **{"epoch": 90, "best": 0.93, "seed": 2**40, "classes": {"cat", "dog"}, "rng": b"\0\1\xff"},
        **{"done": True, "scheduler": None, "shape": torch.Size([1, 8, 8]), "tags": ["a", ("b", 2)]},
    }
    for legacy in (False, True):
        data = saved(checkpoint, _use_new_zipfile_serialization=not legacy)
        row, _ = inspector.look("checkpoint", data)
        assert (row.state, row.error) == ("ready", None)


def test_a_repacked_checkpoint_is_still_read(inspector: Inspector) -> None:
    """Deflated, as archivers leave it."""
    with zipfile.ZipFile(io.BytesIO(saved(state()))) as source:
        packed = zipped({name: source.read(name) for name in source.namelist()}, zipfile.ZIP_DEFLATED)
    row, _ = inspector.look("checkpoint", packed)
    assert (row.state, row.error) == ("ready", None)
