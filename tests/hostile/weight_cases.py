"""Weights that no network can compute with, and files of other kinds."""

from __future__ import annotations

import gzip
import json
import random
import struct
from typing import Any

import torch

from tests.hostile import programs
from tests.hostile.cases import (
    BROKEN,
    DTYPE,
    FORMAT,
    NO_STATE,
    NOT_FINITE,
    Cases,
    Make,
    fixed,
    state,
    with_member,
)
from tests.integration import bad_files as files
from tests.integration.bad_cases import small_network


def with_tensors(**tensors: Any) -> Make:
    """A network's checkpoint with some tensors in the place of others; `__` stands for a dot."""
    return lambda _: files.saved(state() | {key.replace("__", "."): value for key, value in tensors.items()})


_DENSE = torch.ones(10)

WEIGHTS: Cases = {
    "NaN": (with_tensors(linear__bias=_DENSE * torch.nan), NOT_FINITE),
    "one NaN of many": (with_tensors(linear__bias=torch.tensor([0.0] * 9 + [torch.nan])), NOT_FINITE),
    "infinity": (with_tensors(linear__bias=_DENSE * torch.inf), NOT_FINITE),
    "minus infinity": (with_tensors(bn1__running_mean=torch.ones(16) * -torch.inf), NOT_FINITE),
    "NaN in half precision": (with_tensors(linear__bias=(_DENSE * torch.nan).half()), NOT_FINITE),
    "a double past float32": (with_tensors(linear__bias=_DENSE.double() * 1e300), NOT_FINITE),
    "finite, but not when added": (
        with_tensors(linear__bias=_DENSE * 3e38, linear__weight=torch.full((10, 64), 3e38)),
        NOT_FINITE,
    ),
    "negative variances": (with_tensors(bn1__running_var=-torch.ones(16)), NOT_FINITE),
    "complex": (with_tensors(linear__bias=_DENSE.to(torch.complex64)), DTYPE),
    "booleans for weights": (with_tensors(linear__bias=_DENSE.bool()), DTYPE),
    "integers for weights": (with_tensors(linear__bias=_DENSE.to(torch.int8)), DTYPE),
    "float8 weights": (with_tensors(linear__bias=_DENSE.to(torch.float8_e4m3fn)), DTYPE),
    "quantized": (
        lambda _: files.saved({"a": torch.quantize_per_tensor(_DENSE, 0.1, 0, torch.qint8)}),
        DTYPE,
    ),
    "sparse": (with_tensors(linear__bias=_DENSE.to_sparse()), DTYPE),
    "sparse, by rows": (with_tensors(linear__weight=torch.eye(10).to_sparse_csr()), DTYPE),
    "without memory": (with_tensors(linear__bias=_DENSE.to("meta")), DTYPE),
    "texts for weights": (lambda _: files.saved({"conv1.weight": "ones", "linear.bias": b"zeros"}), NO_STATE),
    "numbers for names": (lambda _: files.saved({1: _DENSE, 2: _DENSE}), NO_STATE),
    "a name with a line break": (with_tensors(**{"a\n\x1b[31mb": _DENSE}), NO_STATE),
    "a null in a name": (with_tensors(**{"a\0b": _DENSE}), NO_STATE),
    "half a character in a name": (with_tensors(**{"a\ud800b": _DENSE}), NO_STATE),
    "a shape of nothing": (with_tensors(linear__bias=torch.zeros(0)), "shape_mismatch"),
}

FOREIGN: Cases = {
    "ONNX": (fixed(files.onnx_model), FORMAT),
    "TorchScript": (lambda _: files.torchscript(small_network()), FORMAT),
    "TorchScript in capitals": (
        lambda _: with_member(files.saved(programs.STATE), "CONSTANTS.PKL", b"\x80\x02)."),
        FORMAT,
    ),
    "GGUF": (fixed(lambda: b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60) + bytes(64)), FORMAT),
    "HDF5": (fixed(lambda: b"\x89HDF\r\n\x1a\n" + bytes(2048)), FORMAT),
    "a TensorFlow graph": (fixed(lambda: b"\x0a\x10\x0a\x05input\x12\x0bPlaceholder" * 40), FORMAT),
    "TensorFlow Lite": (fixed(lambda: b"\x1c\0\0\0TFL3" + bytes(512)), FORMAT),
    "Keras": (fixed(lambda: files.zipped({"model.weights.h5": b"\x89HDF", "config.json": b"{}"})), FORMAT),
    "a program for this machine": (fixed(lambda: b"\x7fELF\2\1\1" + bytes(400)), FORMAT),
    "a script": (fixed(lambda: b"#!/bin/sh\ntouch /tmp/pwned\n" * 9), FORMAT),
    "a page": (fixed(lambda: b"<!doctype html><script>alert(1)</script>" * 9), FORMAT),
    "JSON": (fixed(lambda: json.dumps({"conv1.weight": [1.0] * 99}).encode()), FORMAT),
    "a gzip bomb": (fixed(lambda: gzip.compress(bytes(1 << 22))), FORMAT),
    "a tar": (fixed(lambda: files.tarred({"network.pt": files.saved(programs.STATE)})), FORMAT),
    "a tar without its mark": (fixed(lambda: files.tarred({"a": b"b"}).replace(b"ustar", bytes(5))), FORMAT),
    "zeros": (fixed(lambda: bytes(1 << 20)), FORMAT),
    "noise": (fixed(lambda: random.Random(1).randbytes(9999)), FORMAT),
    "one byte": (fixed(lambda: b"\x80"), BROKEN),
}
