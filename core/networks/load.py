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
from core.networks.declared import Declared
from core.networks.foreign import is_plain, shown

MAX_FILE_BYTES = 4 * 2**30
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_COUNT_BYTES = 8  # before each storage's memory
# How often the bytes of a file may be seen through its tensors (tied weights share theirs).
_MAX_AMPLIFICATION = 4
_MAX_NAME = 512

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
        state = _find_state_dict(raw)
        del raw
        _check_names(state)
        state = _strip_prefixes(state)
        _check_kinds(state)
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
    members = {m.filename: m for m in archive.checked_members(path, CheckpointError)}
    pickled = [name for name in members if name.count("/") <= 1 and _base(name) == "data.pkl"]
    if any(_base(name).lower() == "constants.pkl" for name in members):
        raise formats.unsupported(
            "a TorchScript archive", "Save torch.jit.load(path).state_dict() with torch.save instead"
        )
    if len(pickled) != 1:
        raise formats.unsupported(*formats.describe_zip(set(members)))
    if len({name.lower() for name in members}) != len(members):
        # torch's reader does not tell upper from lower case: it might read another member than we do.
        raise formats.unsupported("a zip with names that differ in upper and lower case alone", formats.SAVE)
    declared = Declared()
    with zipfile.ZipFile(path) as file:
        try:
            with file.open(members[pickled[0]]) as stream:
                pickles.refuse_unsafe(pickles.scan(stream, declared))
        except archive.READ_ERRORS as reason:
            raise _damaged(reason) from reason
    folder = pickled[0].removesuffix("data.pkl")
    for key, storage in declared.storages.items():
        member = members.get(f"{folder}data/{key}")
        if member is None or member.file_size != storage.bytes:
            raise _damaged(f"the data of storage {shown(key)} are not there, or have another size")
    _check_amplification(declared, path.stat().st_size)


def _check_legacy(path: Path) -> None:
    """Magic number, protocol, system, the object, the storage keys: five pickles, then raw memory."""
    declared = Declared()
    with path.open("rb") as stream:
        first = pickles.scan(stream)
        pickles.refuse_unsafe(first)
        if first.result != _LEGACY_MAGIC:
            raise CheckpointError(
                "The file is a plain pickle that torch.save did not write. "
                "Save the weights with torch.save(network.state_dict(), path), or as .safetensors.",
                code="not_a_state_dict",
            )
        for _ in range(4):
            last = pickles.scan(stream, declared)
            pickles.refuse_unsafe(last)
        begin = stream.tell()
    size, keys = path.stat().st_size, last.result
    # torch makes room for every storage that the object names, and fills those that the keys name.
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _damaged("it has no list of storages")
    if sorted(keys) != sorted(declared.storages):
        raise _damaged("its list of storages does not match its tensors")
    if begin + declared.storage_bytes + _LEGACY_COUNT_BYTES * len(keys) > size:
        raise _damaged("it has fewer bytes than its tensors")
    _check_amplification(declared, size)


def _check_amplification(declared: Declared, size: int) -> None:
    """A stride of zero, or a thousand views of one storage, makes gigabytes out of a small file."""
    if declared.tensor_bytes > _MAX_AMPLIFICATION * max(size, declared.storage_bytes) + 2**20:
        raise CheckpointError(
            f"The file's tensors would take {declared.tensor_bytes:,} bytes, made from a file of {size:,}. "
            "It was not expanded.",
            code="archive_bomb",
        )


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
        keys = [repr(shown(key) if isinstance(key, str) else type(key).__name__) for key in list(raw)[:5]]
        what = "keys " + ", ".join(keys) if raw else "an empty dictionary"
    else:
        what = f"an object of type {type(raw).__name__}"
    raise CheckpointError(
        f"No state dict (names to tensors) was found in the file; it holds {what}. "
        "Save the weights with torch.save(network.state_dict(), path).",
        code="not_a_state_dict",
    )


def _check_names(state: dict[str, Tensor]) -> None:
    formats.check_count(len(state))
    for key in state:
        if not is_plain(key, _MAX_NAME):
            raise CheckpointError(
                f"The name {shown(key)!r} is no parameter's: it is empty, or has control characters or more "
                f"than {_MAX_NAME}. The file is damaged or holds something else.",
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


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _damaged(reason: BaseException | str) -> CheckpointError:
    text = shown(str(reason).partition("\n")[0], 200) or type(reason).__name__
    return CheckpointError(
        f"The file is damaged or was cut off ({text}). Upload it again.", code="truncated_file"
    )
