"""A checkpoint file in, a plain state dict out; nothing in the file is ever run.

The format is found from the content, never from the name: torch's zip format, torch's legacy pickle
format, safetensors; others are named and refused. Order: sizes, archive directory, pickle opcodes,
and only then `torch.load(weights_only=True)`, which stays the guard in every case.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from core.errors import CheckpointError
from core.networks import archive, formats, pickles

MAX_FILE_BYTES = 4 * 2**30
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# How often the bytes of a file may be seen through its tensors (tied weights share theirs).
_MAX_AMPLIFICATION = 4

# Where training scripts put the weights, the likeliest first.
_WRAPPERS = (
    *(
        "state_dict",
        "model_state_dict",
        "model_state",
        "model",
        "net",
        "network",
        "module",
        "weights",
        "params",
    ),
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema"),
)
# What wrappers (DataParallel, torch.compile, Lightning) put before every name.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_BOOKKEEPING = ("n_averaged",)  # torch.optim.swa_utils.AveragedModel

_KEPT = (torch.float32, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
_WIDENED = (torch.float16, torch.bfloat16, torch.float64)


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The weights in the file at `path`, on the CPU, each tensor contiguous with memory of its own.

    Floating point comes back as float32; integers and booleans as they are. Raises CheckpointError
    (empty_file, truncated_file, unsafe_pickle, archive_bomb, unsupported_format, not_a_state_dict,
    unsupported_dtype, non_finite_weights).
    """
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError("The checkpoint file is empty.", code="empty_file", field="file")
    if size > MAX_FILE_BYTES:
        raise CheckpointError(
            f"The checkpoint has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read. "
            "Save the weights alone, without optimizer state.",
            code="unsupported_format",
            field="file",
        )
    try:
        raw = read_safely(path)
        state = _strip_prefixes(_find_state_dict(raw))
        del raw
        _check_kinds(state)
        _check_amplification(state, size)
        clean = {key: _owned(state[key]) for key in list(state)}
        _check_finite(clean)
    except CheckpointError as error:
        error.field = error.field or "file"
        raise
    return clean


def read_safely(path: Path) -> Any:
    """What `torch.save` or safetensors wrote there, on the CPU; nothing in the file is run.

    Raises CheckpointError where it holds more than tensors, numbers, strings and containers of these, or is
    damaged.
    """
    kind = formats.recognize(path)
    if kind == "safetensors":
        formats.check_safetensors(path)
        try:
            return safetensors.torch.load_file(path, device="cpu")
        except (SafetensorError, ValueError, KeyError) as reason:
            raise _damaged(reason) from reason
    if kind == "zip":
        _check_torch_zip(path)
    else:
        _check_legacy(path)
    try:
        # A stream, not the path: by the ending of a path torch would choose another reader.
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as reason:
        raise CheckpointError(
            "The file holds more than tensors, and the safe reader refused it. "
            "Save the weights alone: torch.save(network.state_dict(), path), or save it as .safetensors.",
            code="unsafe_pickle",
        ) from reason
    except Exception as reason:
        # The reader's own errors on damaged files are of every kind: RuntimeError, EOFError, KeyError, …
        raise _damaged(reason) from reason


def _check_torch_zip(path: Path) -> None:
    members = archive.checked_members(path, CheckpointError)
    names = {member.filename for member in members}
    pickled = [
        member for member in members if member.filename.count("/") <= 1 and _base(member) == "data.pkl"
    ]
    if any(_base(member) == "constants.pkl" for member in members):
        raise formats.unsupported(
            "a TorchScript archive", "Save torch.jit.load(path).state_dict() with torch.save instead"
        )
    if len(pickled) != 1:
        raise formats.unsupported(*formats.describe_zip(names))
    with zipfile.ZipFile(path) as file:
        try:
            with file.open(pickled[0]) as stream:
                pickles.refuse_unsafe(pickles.scan(stream))
        except archive.READ_ERRORS as reason:
            raise _damaged(reason) from reason


def _check_legacy(path: Path) -> None:
    """Magic number, protocol, system, the object, the storage keys: five pickles, then raw memory."""
    with path.open("rb") as stream:
        first = pickles.scan(stream)
        pickles.refuse_unsafe(first)
        if first.first_integer != _LEGACY_MAGIC:
            raise CheckpointError(
                "The file is a plain pickle that torch.save did not write. "
                "Save the weights with torch.save(network.state_dict(), path), or as .safetensors.",
                code="not_a_state_dict",
            )
        for _ in range(4):
            pickles.refuse_unsafe(pickles.scan(stream))


def _find_state_dict(raw: Any, depth: int = 0) -> dict[str, Tensor]:
    if isinstance(raw, Mapping):
        tensors = {key: value for key, value in raw.items() if isinstance(value, Tensor)}
        if tensors and all(isinstance(key, str) for key in tensors):
            nested = [key for key in _WRAPPERS if isinstance(raw.get(key), Mapping)]
            if not nested:
                return tensors
        for key in _WRAPPERS if depth < 3 else ():
            if isinstance(raw.get(key), Mapping) and raw[key]:
                return _find_state_dict(raw[key], depth + 1)
    if isinstance(raw, Mapping):
        what = "keys " + ", ".join(map(repr, list(raw)[:5])) if raw else "an empty dictionary"
    else:
        what = f"an object of type {type(raw).__name__}"
    raise CheckpointError(
        f"No state dict (names to tensors) was found in the file; it holds {what}. "
        "Save the weights with torch.save(network.state_dict(), path).",
        code="not_a_state_dict",
    )


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {key: value for key, value in state.items() if key not in _BOOKKEEPING}
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if state and all(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
                stripped = True
    # torch.compile applied to parts of a network marks them inside the names.
    return {key.replace("._orig_mod.", "."): value for key, value in state.items()}


def _check_kinds(state: dict[str, Tensor]) -> None:
    for key, value in state.items():
        if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
            raise _wrong_kind(key, f"a {value.layout} tensor on {value.device}")
        if value.dtype not in _KEPT + _WIDENED:
            raise _wrong_kind(key, str(value.dtype).removeprefix("torch."))


def _wrong_kind(key: str, kind: str) -> CheckpointError:
    return CheckpointError(
        f"{key} is {kind}, which cannot be used here. Save the weights as ordinary float32 tensors "
        "(float16 and bfloat16 are converted).",
        code="unsupported_dtype",
    )


def _check_amplification(state: dict[str, Tensor], size: int) -> None:
    """A stride of zero, or a thousand views of one storage, makes gigabytes out of a small file."""
    seen = sum(value.numel() * value.element_size() for value in state.values())
    if seen > _MAX_AMPLIFICATION * size + 2**20 and seen > _MAX_AMPLIFICATION * _storage_bytes(state):
        raise CheckpointError(
            f"The file's tensors would take {seen:,} bytes, made from a file of {size:,}. "
            "It was not expanded.",
            code="archive_bomb",
        )


def _storage_bytes(state: dict[str, Tensor]) -> int:
    storages = {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in state.values()}
    return sum(storages.values())


def _owned(value: Tensor) -> Tensor:
    value = value.detach()
    if value.dtype in _WIDENED:
        return value.to(torch.float32).contiguous()
    whole = value.numel() * value.element_size() == value.untyped_storage().nbytes()
    return value.contiguous() if whole else value.clone(memory_format=torch.contiguous_format)


def _check_finite(state: dict[str, Tensor]) -> None:
    bad = [key for key, value in state.items() if value.is_floating_point() and not _is_finite(value)]
    if bad:
        shown = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise CheckpointError(
            f"NaN or infinite values in {shown}. Training probably diverged; use an earlier checkpoint.",
            code="non_finite_weights",
        )


def _is_finite(value: Tensor) -> bool:
    # The smallest and the largest are NaN when any value is; no mask the size of the tensor is made.
    return not value.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(value))).all())


def _base(member: zipfile.ZipInfo) -> str:
    return member.filename.rpartition("/")[2]


def _damaged(reason: BaseException) -> CheckpointError:
    text = str(reason).splitlines()[0][:200] if str(reason) else type(reason).__name__
    return CheckpointError(
        f"The file is damaged or was cut off ({text}). Upload it again.", code="truncated_file"
    )
