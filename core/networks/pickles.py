"""Reads what a pickle *would* do, opcode by opcode, without doing any of it.

A pickle is a program: to load it is to run it. torch's `weights_only` unpickler is the guard that
keeps foreign code from running; this scan comes first, allows even less, and can name what it
refuses. It executes nothing: `pickletools.genops` only decodes.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import Any, Protocol

from core.errors import CheckpointError
from core.networks.declared import ITEM_BYTES, Declared, Machine
from core.networks.foreign import shown

MAX_PICKLE_BYTES = 16 * 2**20
MAX_OPCODES = 1_000_000  # 35 a tensor; one byte may make an object of two hundred
_SAVE_HINT = 'torch.save(network.state_dict(), "network.pt"), or save it as .safetensors'

# What torch.save(state_dict) writes, and nothing more.
_ALLOWED = {
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch.nn.parameter Parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch.serialization _get_layout",
    "_codecs encode",
    "builtins set",
    "__builtin__ set",
}
_DTYPES = {
    *("float64", "float32", "float16", "bfloat16", "double", "float", "half"),
    *("int64", "int32", "int16", "int8", "uint8", "bool", "long", "int", "short"),
}
# torch writes these too, for tensors that no layer of ours holds.
_UNSUPPORTED = (
    *("_rebuild_qtensor", "_rebuild_sparse", "_rebuild_meta", "_rebuild_tensor_v3"),
    *("Complex", "QInt", "QUInt", "complex", "qint", "quint", "float8", "float4"),
)
_NEVER_WRITTEN = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}
_STRINGS = {
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "UNICODE",
    "BINUNICODE8",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
}


class Readable(Protocol):
    def read(self, n: int = -1, /) -> bytes: ...
    def readline(self, limit: int = -1, /) -> bytes: ...


@dataclass(slots=True)
class _Bounded:
    """Stops a pickle from making its reader allocate more than `left` bytes in all."""

    source: Readable
    left: int = MAX_PICKLE_BYTES

    def read(self, n: int = -1) -> bytes:
        if n < 0 or n > self.left:
            raise _too_large(f"{MAX_PICKLE_BYTES:,} bytes")
        self.left -= n
        return self.source.read(n)

    def readline(self) -> bytes:
        line = self.source.readline(self.left)
        self.left -= len(line)
        return line


@dataclass(slots=True)
class Scan:
    """What one pickle asks for: `globals` as "module name", each once; opcodes, the protocol.

    `result` is what it would make, as `core.networks.declared` sees it, unless `refusal` says why it
    would make nothing that may be loaded.
    """

    globals: dict[str, None] = field(default_factory=dict)
    opcodes: set[str] = field(default_factory=set)
    protocol: int = 0
    result: Any = None
    refusal: CheckpointError | None = None


def scan(source: Readable, declared: Declared | None = None) -> Scan:
    """Decodes one pickle from `source`; what it declares is added to `declared`.

    Raises CheckpointError (truncated_file where it ends too early, archive_bomb).
    """
    found = Scan()
    machine = Machine(declared or Declared())
    strings: list[str] = []  # operands that STACK_GLOBAL may name, in order
    memo: dict[int, str] = {}
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(_Bounded(source))):  # type: ignore[arg-type]
            name = opcode.name
            found.opcodes.add(name)
            if count > MAX_OPCODES:
                raise _too_large(f"{MAX_OPCODES:,} instructions")
            if found.refusal is None:
                try:
                    machine.step(name, argument)
                except CheckpointError as refusal:
                    # Said after what it names, which tells more.
                    found.refusal = refusal
            if name == "PROTO":
                found.protocol = int(argument or 0)
            elif name in _STRINGS:
                strings.append(str(argument))
            elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT") and strings:
                memo[len(memo) if argument is None else int(argument)] = strings[-1]
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                strings.append(memo.get(int(argument or 0), "?"))
            elif name in ("GLOBAL", "INST"):
                found.globals[str(argument)] = None
            elif name == "STACK_GLOBAL":
                found.globals[" ".join(["?", "?", *strings][-2:])] = None
            del strings[:-2]
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError) as reason:
        if found.globals:
            refuse_unsafe(found)
        raise CheckpointError(
            "The pickle in the file is broken or ends too early: the file was cut off or damaged. "
            "Upload it again.",
            code="truncated_file",
        ) from reason
    found.result = machine.result
    return found


def refuse_unsafe(found: Scan) -> None:
    """Raises CheckpointError when the pickle does more than hold tensors."""
    foreign = [name for name in found.globals if not _is_allowed(name)]
    if foreign:
        raise _refusal(foreign)
    odd = sorted(found.opcodes & _NEVER_WRITTEN)
    if odd:
        raise CheckpointError(
            f"The file's pickle uses {odd[0]}, an instruction that builds objects and that torch.save does "
            f"not write. It was not run. Save the weights alone: {_SAVE_HINT}.",
            code="unsafe_pickle",
        )
    if found.protocol > 3 or "STACK_GLOBAL" in found.opcodes:
        raise CheckpointError(
            f"The file was saved with pickle protocol {found.protocol}, which the safe reader does not know. "
            f"Save it with torch's default protocol: {_SAVE_HINT}.",
            code="unsupported_format",
        )
    if found.refusal is not None:
        raise found.refusal


def _too_large(limit: str) -> CheckpointError:
    return CheckpointError(
        f"The pickle in the file is larger than {limit}, its tensors aside. "
        f"Save the weights alone: {_SAVE_HINT}.",
        code="archive_bomb",
    )


def _refusal(foreign: list[str]) -> CheckpointError:
    names = [shown(name.replace(" ", ".")) for name in foreign]
    for name in names:
        if any(part in name for part in _UNSUPPORTED) and name.startswith("torch."):
            return CheckpointError(
                f"The file holds tensors of a kind that cannot be used here ({name}): complex, quantized, "
                "sparse, empty (meta) or of a rare type. Save the weights as ordinary float32 tensors.",
                code="unsupported_dtype",
            )
    # A whole pickled model names the classes of its layers; what else it names are its own classes.
    whole = any(name.startswith(("torch.nn.modules.", "torchvision.models.", "timm.")) for name in names)
    if whole and not any(_is_dangerous(name) for name in names):
        return CheckpointError(
            f"The file holds a whole pickled model (it names {names[0]}), not a state dict. To load it would "
            f"run its code, so it was not loaded. Save the weights alone: {_SAVE_HINT}.",
            code="not_a_state_dict",
        )
    worst = next((name for name in names if _is_dangerous(name)), names[0])
    return CheckpointError(
        f"The file's pickle asks for {worst}, which is not part of a state dict. Loading it could run "
        f"foreign code, so it was not loaded. Save the weights alone: {_SAVE_HINT}.",
        code="unsafe_pickle",
    )


def _is_allowed(name: str) -> bool:
    module, _, attribute = name.partition(" ")
    if name in _ALLOWED:
        return True
    if any(part in attribute for part in _UNSUPPORTED):
        return False
    storage = module in ("torch", "torch.storage") and attribute in ITEM_BYTES
    return storage or (module == "torch" and attribute in _DTYPES)


_DANGEROUS = {
    *("os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "pty", "platform", "ctypes", "signal"),
    *(
        "runpy",
        "importlib",
        "builtins",
        "__builtin__",
        "code",
        "codeop",
        "pickle",
        "_pickle",
        "marshal",
        "types",
    ),
    *("functools", "operator", "webbrowser", "http", "urllib", "asyncio", "multiprocessing", "threading"),
    *("tempfile", "pathlib", "io", "pdb", "bdb", "timeit", "cProfile", "profile", "pip"),
}
_HARMLESS = {"set", "frozenset", "dict", "list", "tuple", "slice", "range", "object", "int", "float", "bool"}


def _is_dangerous(name: str) -> bool:
    return name.partition(".")[0] in _DANGEROUS and name.rpartition(".")[2] not in _HARMLESS
