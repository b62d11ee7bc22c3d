"""Files that must be refused, as bytes, and programs that must never run."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

State = dict[str, torch.Tensor]


class Trap:
    """Whoever unpickles this runs a program that leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def trapped_checkpoint(state: State, marker: Path) -> bytes:
    return saved({"state_dict": state, "epoch": Trap(marker)})


def trapped_legacy_checkpoint(state: State, marker: Path) -> bytes:
    return saved({"state_dict": state, "epoch": Trap(marker)}, _use_new_zipfile_serialization=False)


def trapped_pickle(marker: Path, protocol: int = 2) -> bytes:
    return pickle.dumps(Trap(marker), protocol=protocol)


def trapped_behind_tensors(state: State, marker: Path) -> bytes:
    """The trap in a pickle after the first: legacy files hold five in a row."""
    good = saved(state, _use_new_zipfile_serialization=False)
    stream = io.BytesIO(good)
    for _ in range(3):
        pickle.load(stream)
    return good[: stream.tell()] + pickle.dumps(Trap(marker), protocol=2) + good[stream.tell() :]


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def repacked(archive: bytes, changed: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with the members whose names end like the keys of `changed` replaced."""
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    for ending, data in changed.items():
        (name,) = (name for name in members if name.endswith(ending))
        members[name] = data
    return zipped(members, compression)


def zeros_deflated(name: str, mebibytes: int) -> bytes:
    """A zip a thousandth of the size of what it unpacks to."""
    return zipped({name: bytes(mebibytes << 20)}, zipfile.ZIP_DEFLATED)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy_header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def npz_bomb(mebibytes: int) -> bytes:
    """`x` is all zeros, which deflate packs a thousandfold."""
    images = mebibytes * 1024
    members = {
        "x.npy": npy_header((images, 32, 32, 1)) + bytes(mebibytes << 20),
        "y.npy": npy_header((images,)) + bytes(images),
    }
    return zipped(members, zipfile.ZIP_DEFLATED)


def picture(format: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, format)
    return buffer.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def torchscript(network: torch.nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 1, 8, 8)), buffer)
    return buffer.getvalue()


def onnx_model() -> bytes:
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [result])
    return helper.make_model(graph).SerializeToString()


def safetensors_with_header(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data
