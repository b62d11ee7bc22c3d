"""Sessions are opened the same way for paths and models, and refuse broken files by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from core.errors import ExportError
from core.export.onnx import Exported
from core.export.session import as_input, open_session, run
from core.fake_quant.insert import Student
from tests.core import small

Export = Callable[..., tuple[Student, Exported]]


def test_a_path_and_a_model_give_the_same(export: Export, tmp_path: Path) -> None:
    _, exported = export("plain")
    onnx.save(exported.model, tmp_path / "model.onnx")
    x = small.images(4)
    from_path = run(open_session(tmp_path / "model.onnx", threads=1), x)
    assert torch.equal(run(open_session(exported.model), x), from_path)


def test_the_number_of_threads_is_never_left_to_onnxruntime(export: Export) -> None:
    """It would bind them to cores, which confined jobs may not: each session would complain on stderr."""
    _, exported = export("plain")
    threads = open_session(exported.model).get_session_options().intra_op_num_threads
    assert threads == torch.get_num_threads() > 0


def test_a_file_that_does_not_load_is_an_export_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ExportError) as caught:
        open_session(tmp_path / "model.onnx")
    assert caught.value.code == "export_failed"


def test_inputs_are_contiguous_float32() -> None:
    x = small.images(2).to(memory_format=torch.channels_last).requires_grad_(True)
    found = as_input(x)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.array_equal(found, x.detach().numpy())
