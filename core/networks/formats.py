"""Which kind of file this is, from its first bytes; the header of safetensors, checked.

Formats that cannot be used are recognized too, so that the error can say what they are and what to
do instead.
"""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any, Literal

from core.errors import CheckpointError
from core.networks.foreign import shown

Kind = Literal["zip", "pickle", "safetensors"]

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 20_000  # ten times what the largest networks of the registry have
_MAX_HEADER_DEPTH = 4  # {name: {"shape": [..]}} needs three
_MAX_DIMENSIONS = 16
_HEAD = 4096

SAVE = "Save the weights with torch.save(network.state_dict(), path), or as .safetensors"
_TF = "Convert the weights to a PyTorch state dict first"

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras, TensorFlow)", _TF),
    (b"GGUF", "a GGUF file", SAVE),
    (b"\x93NUMPY", "a NumPy array", SAVE),
    (b"\x1f\x8b", "a gzip archive", "Unpack it and upload the checkpoint itself"),
    (b"BZh", "a bzip2 archive", "Unpack it and upload the checkpoint itself"),
    (b"\xfd7zXZ\x00", "an xz archive", "Unpack it and upload the checkpoint itself"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Unpack it and upload the checkpoint itself"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "Unpack it and upload the checkpoint itself"),
    (b"Rar!", "a RAR archive", "Unpack it and upload the checkpoint itself"),
    (b"\x89PNG", "a PNG image", SAVE),
    (b"\xff\xd8\xff", "a JPEG image", SAVE),
    (b"%PDF", "a PDF document", SAVE),
    (b"version https://git-lfs", "a Git LFS pointer, not the file it points to", "Run `git lfs pull` first"),
    (b"<", "a web page or XML", "Download the file itself, not the page about it"),
)

_ITEM_BYTES = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1},
    **{"U64": 8, "U32": 4, "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8},
}
_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")


def recognize(path: Path) -> Kind:
    """The kind of checkpoint at `path`. Raises CheckpointError(unsupported_format, truncated_file)."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if head[257:262] == b"ustar":
        raise unsupported("a tar archive", "Unpack it and upload the checkpoint itself")
    if head[4:8] == b"TFL3":
        raise unsupported("a TensorFlow Lite model", _TF)
    for magic, name, advice in _MAGIC:
        if head.startswith(magic):
            raise unsupported(name, advice)
    if len(head) >= 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**40:
        return "safetensors"
    if _looks_like_onnx(head):
        raise unsupported("an ONNX model", "Upload the PyTorch checkpoint that it was exported from")
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        return "pickle"
    if _looks_like_old_pickle(head):
        return "pickle"
    if _is_text(head):
        raise unsupported("a text file", SAVE)
    if size < 16:
        raise CheckpointError(
            f"The file has only {size} bytes; no checkpoint is that small. It was cut off.",
            code="truncated_file",
        )
    raise unsupported("of an unknown format", SAVE)


def unsupported(name: str, advice: str) -> CheckpointError:
    return CheckpointError(
        f"The file is {name}. Checkpoints are state dicts as .pt/.pth or .safetensors. {advice}.",
        code="unsupported_format",
    )


def describe_zip(names: set[str]) -> tuple[str, str]:
    """What a zip without a torch pickle is, from its members' names, and what to do."""
    if any(name.endswith(".weights.h5") for name in names):
        return "a Keras archive", _TF
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy .npz archive", SAVE
    if any(name.endswith(("model.json", "exported_program.json")) for name in names):
        return "a torch.export program", SAVE
    if any(name.endswith((".pt", ".pth", ".safetensors")) for name in names):
        return "a zip with checkpoints in it", "Unpack it and upload the checkpoint itself"
    return "a zip archive without a torch checkpoint in it", SAVE


def check_safetensors(path: Path) -> None:
    """Checks the header: length, nesting, types, and that each tensor lies within the file.

    Raises CheckpointError(truncated_file, unsupported_format, unsupported_dtype, archive_bomb).
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"The safetensors header claims {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read.",
                code="archive_bomb",
            )
        if 8 + length > size:
            raise _cut_off("its header is longer than the file")
        text = stream.read(length)
    if _depth(text) > _MAX_HEADER_DEPTH:
        raise _bad_header("it is nested too deeply")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise _bad_header("it is not JSON") from reason
    if not isinstance(header, dict):
        raise _bad_header("it is not an object")
    header.pop("__metadata__", None)
    check_count(len(header))
    for key, entry in header.items():
        _check_entry(shown(key), entry, size - 8 - length)


def check_count(tensors: int) -> None:
    """Raises CheckpointError(not_a_state_dict) where there are more than any network has."""
    if tensors > MAX_TENSORS:
        raise CheckpointError(
            f"The file holds {tensors:,} tensors; at most {MAX_TENSORS:,} are read. Save the weights of the "
            "network alone: torch.save(network.state_dict(), path).",
            code="not_a_state_dict",
        )


def _check_entry(key: str, entry: Any, data_bytes: int) -> None:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError) as reason:
        raise _bad_header(f"the entry of {key!r} is malformed") from reason
    # Small before they are multiplied: JSON's integers have thousands of digits.
    if len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
        raise _bad_header(f"the entry of {key!r} has numbers that are not counts")
    if dtype not in _DTYPES:
        raise CheckpointError(
            f"{key} is of type {shown(str(dtype))}, which cannot be used here. "
            "Save the weights as float32, float16 or bfloat16.",
            code="unsupported_dtype",
        )
    if end > data_bytes:
        raise _cut_off(f"{key} lies beyond its end")
    if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise _bad_header(f"the size of {key!r} does not fit its shape")


def _depth(text: bytes) -> int:
    depth = deepest = 0
    in_string = escaped = False
    for byte in text:
        if in_string:
            in_string = escaped or byte != 0x22
            escaped = byte == 0x5C and not escaped
        elif byte == 0x22:
            in_string = True
        elif byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest


def _looks_like_onnx(head: bytes) -> bool:
    # ModelProto: field 1 (ir_version, a small number), then producer, graph or opset by their tags.
    return len(head) > 3 and head[0] == 0x08 and head[1] < 0x20 and head[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42)


def _looks_like_old_pickle(head: bytes) -> bool:
    """Protocols 0 and 1 have no magic number; they begin with a mark, a global or an empty container."""
    if head[:1] == b"c":  # c<module>\n<name>\n
        return re.match(rb"c[\w.]+\n[\w.]+\n", head) is not None
    return head[:1] in (b"(", b"]", b"}", b"l") and head[:2] != b'{"' and b"." in head


def _is_text(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        # The last character may have been cut in two.
        if len(head) < _HEAD or error.start < len(head) - 4:
            return False
    return b"\0" not in head


def _cut_off(reason: str) -> CheckpointError:
    return CheckpointError(
        f"The safetensors file was cut off: {reason}. Upload it again.", code="truncated_file"
    )


def _bad_header(reason: str) -> CheckpointError:
    return CheckpointError(f"The safetensors header cannot be read: {reason}.", code="unsupported_format")
