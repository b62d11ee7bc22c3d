"""ONNX Runtime sessions, set up the same way wherever a file is run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from core.errors import ExportError
from core.export.builder import INPUT

PROVIDERS = ["CPUExecutionProvider"]


def open_session(
    model: Path | onnx.ModelProto, *, threads: int | None = None, optimized: Path | None = None
) -> ort.InferenceSession:
    """A session at ONNX Runtime's default optimizations, with as many threads as torch has by default.

    Idle threads do not spin: on a shared machine they slow each other down and make timings of the
    same file differ by a third. `optimized` receives the graph that really runs. Raises ExportError.
    """
    options = ort.SessionOptions()
    # By a number of its own choice ONNX Runtime would bind threads to cores, which a confined job may not.
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        return ort.InferenceSession(source, options, providers=PROVIDERS)
    except Exception as error:  # its exceptions share no base class of their own
        raise ExportError(f"ONNX Runtime does not load the exported file: {error}") from error


def run(session: ort.InferenceSession, x_NCHW: Tensor) -> Tensor:
    """Logits [N, K] of a session on normalized float32 images."""
    (logits,) = session.run(["logits"], {INPUT: as_input(x_NCHW)})
    return torch.from_numpy(np.asarray(logits))


def as_input(x_NCHW: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ascontiguousarray(x_NCHW.detach().cpu().numpy(), dtype=np.float32)
