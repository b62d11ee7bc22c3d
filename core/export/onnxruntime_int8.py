"""The int8 file that ONNX Runtime's own static quantizer makes of the float32 network.

What a user would ship without zsq: latency is compared with it. It is made as ONNX Runtime's guide for
x86-64 processors with VNNI says: QDQ format, uint8 activations, int8 weights at their full range,
ranges by minimum and maximum, after the pre-processing; and per output channel, as zsq's weights are
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from core.errors import ExportError
from core.export.builder import INPUT
from core.export.session import as_input, open_session, run

CALIBRATION_IMAGES = 8
# The quantizer takes about six times the file's size in memory, and protobuf ends at 2 GiB.
MAX_BYTES = 1 << 30


def quantize_int8(float32: Path, images_NCHW: Tensor, target: Path) -> None:
    """Writes `target`, calibrated on the first images (normalized float32), one at a time.

    What is written on the way goes into `target`'s folder and is removed. Raises ExportError with the
    reason in one line: the quantizer knows fewer networks than the runtime.
    """
    size = float32.stat().st_size
    if size > MAX_BYTES:
        raise ExportError(f"the float32 file has {size >> 20} MiB, more than {MAX_BYTES >> 20}")
    images = images_NCHW[:CALIBRATION_IMAGES]
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder, _alone(Path(folder)):
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(float32), str(prepared))
            quantize_static(
                str(prepared),
                str(target),
                _Images(images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=False,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
        run(open_session(target), images[:1])
    except Exception as error:  # whatever the quantizer raises, asserts included, for what it cannot do
        target.unlink(missing_ok=True)
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:300].rstrip(".")
        raise ExportError(f"{type(error).__name__}: {reason}") from error


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images_NCHW: Tensor) -> None:
        self.left = iter(images_NCHW.split(1))

    def get_next(self) -> dict[str, Any] | None:
        image = next(self.left, None)
        return None if image is None else {INPUT: as_input(image)}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Temporary files go into `folder`; nothing is logged or warned of."""
    ort.set_default_logger_severity(4)
    known, tempfile.tempdir = tempfile.tempdir, str(folder)
    disabled = logging.root.manager.disable
    logging.disable()
    # Without a handler, logging.warning() would configure logging for the whole process.
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tempfile.tempdir = known
        logging.root.removeHandler(handler)
        logging.disable(disabled)
