"""What a pickle would make is known without making it; what torch then makes is that."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch

from core.errors import CheckpointError
from core.networks.declared import Declared
from core.networks.pickles import refuse_unsafe, scan
from tests.hostile import programs
from tests.integration.bad_files import saved


def declared_by(program: bytes) -> Declared:
    declared = Declared()
    refuse_unsafe(scan(io.BytesIO(program), declared))
    return declared


def pickle_of(checkpoint: object) -> bytes:
    with zipfile.ZipFile(io.BytesIO(saved(checkpoint))) as file:
        return file.read("archive/data.pkl")


def test_storages_and_views_are_counted_as_torch_makes_them() -> None:
    shared = torch.arange(10.0)
    state = {
        "a": shared,
        "b": shared[2:4],
        "t": shared.view(2, 5).t(),
        "h": torch.ones(3).half(),
        "n": torch.tensor(7),
    }
    declared = declared_by(
        pickle_of(
            {
                "model": {
                    key: torch.nn.Parameter(value) if value.is_floating_point() else value
                    for key, value in state.items()
                }
            }
        )
    )
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in state.values()
    }
    assert sorted(storage.bytes for storage in declared.storages.values()) == sorted(storages.values())
    assert declared.tensor_bytes == sum(value.numel() * value.element_size() for value in state.values())


def test_a_tensor_may_end_where_its_storage_does_and_no_further() -> None:
    assert declared_by(programs.tensor(6, (2, 3), (3, 1))).tensor_bytes == 24
    assert declared_by(programs.tensor(6, (0, 2**40), (1, 1))).tensor_bytes == 0
    for lie in ((6, (2, 3), (3, 2)), (6, (7,), (1,)), (6, (6,), (1,), 1), (5, (2, 3), (3, 1))):
        with pytest.raises(CheckpointError, match="beyond the end") as caught:
            declared_by(programs.tensor(*lie))
        assert caught.value.code == "truncated_file"


def test_the_codec_that_doubles_is_refused_where_torch_would_run_it() -> None:
    program = programs.hex_doubled(3)
    assert len(torch.load(io.BytesIO(programs.in_zip(program)), weights_only=True)) == 8 * 1024
    with pytest.raises(CheckpointError) as caught:
        declared_by(program)
    assert caught.value.code == "unsafe_pickle"


def test_a_storage_has_one_size() -> None:
    first, second = programs.tensor(6)[3:-1], programs.tensor(7)[3:-1]
    with pytest.raises(CheckpointError, match="two sizes"):
        declared_by(b"\x80\x02}" + first + second + b".")
