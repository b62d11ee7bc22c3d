"""What tensors a pickle would make, found by walking its instructions with stand-ins for the objects.

torch's safe reader runs nothing foreign, but it believes what a pickle says of sizes: an old-style file
of a kilobyte makes it allocate whatever is written there, and a handful of instructions that are all
allowed make gigabytes out of each other (`_codecs.encode` with "hex" doubles its input). Here every
instruction that torch.save writes is followed, and nothing else is let through, so that storages,
their sizes and the views of them are known before any memory is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from core.errors import CheckpointError

ITEM_BYTES = {
    **{"DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2},
    **{"LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1},
    **{"BoolStorage": 1, "UntypedStorage": 1},
}
MAX_DIMENSIONS = 16
MAX_COPIED = 4_000_000  # items or characters that calls of set(), OrderedDict() and encode() may copy
_MAX_COUNT = 2**48
_VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")


class Global(NamedTuple):
    """A name of a module, "module name"."""

    name: str


class Storage(NamedTuple):
    key: str
    item_bytes: int
    items: int

    @property
    def bytes(self) -> int:
        return self.item_bytes * self.items


class Tensor(NamedTuple):
    bytes: int


class Mapping:
    """A dictionary of any kind, or a set; what is in it does not matter."""


class Opaque:
    """An object without content of its own: a device, a layout."""


@dataclass(slots=True)
class Declared:
    """`tensor_bytes` counts every view in full, however many of them share a storage."""

    storages: dict[str, Storage] = field(default_factory=dict)
    tensor_bytes: int = 0

    @property
    def storage_bytes(self) -> int:
        return sum(storage.bytes for storage in self.storages.values())


class Machine:
    """`step` it through a pickle's instructions; `result` is what the pickle makes.

    Raises CheckpointError (unsafe_pickle for what torch.save does not write, truncated_file for tensors
    that reach beyond their data, archive_bomb).
    """

    def __init__(self, declared: Declared) -> None:
        self.result: Any = None
        self._declared = declared
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def step(self, name: str, argument: Any) -> None:
        instruction = _INSTRUCTIONS.get(name)
        if instruction is None:
            raise _not_written(name)
        try:
            instruction(self, argument)
        except (IndexError, KeyError) as reason:
            raise _broken() from reason

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def mark(self, _: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise _broken()
        at = len(self._stack) - count
        self._stack[at:] = [tuple(self._stack[at:])]

    def tuple_of_marked(self, _: Any) -> None:
        items = self._marked()
        self._stack.append(tuple(items))

    def append(self, _: Any) -> None:
        item = self._stack.pop()
        self._top(list).append(item)

    def append_marked(self, _: Any) -> None:
        items = self._marked()
        self._top(list).extend(items)

    def set_item(self, _: Any) -> None:
        _, key = self._stack.pop(), self._stack.pop()
        self._top(Mapping)
        _check_keys([key])

    def set_marked(self, _: Any) -> None:
        items = self._marked()
        self._top(Mapping)
        _check_keys(items[::2])

    def refer(self, _: Any) -> None:
        self._stack.append(self._storage(self._stack.pop()))

    def call(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._called(function, arguments))

    def build(self, _: Any) -> None:
        self._stack.pop()
        self._top(Mapping)  # a state dict's `_metadata`

    def stop(self, _: Any) -> None:
        self.result = self._stack.pop()

    def _marked(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _top(self, kind: type[Any]) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise _not_written(f"items for what is no {kind.__name__.lower()}")
        return self._stack[-1]

    def _storage(self, id: Any) -> Storage:
        if not (isinstance(id, tuple) and len(id) in (5, 6) and id[0] == "storage"):
            raise _not_written("a reference that is no storage")
        _, kind, key, _, items, *view = id
        item_bytes = ITEM_BYTES.get(kind.name.partition(" ")[2]) if isinstance(kind, Global) else None
        if item_bytes is None or not isinstance(key, str) or not _is_count(items):
            raise _not_written("a storage of no known kind")
        if view not in ([], [None]):
            raise _not_written("a view of a storage")
        storage = Storage(key, item_bytes, items)
        if self._declared.storages.setdefault(key, storage) != storage:
            raise _not_written("a storage of two sizes")
        return storage

    def _called(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise _not_written("a call of no function")
        match function.name, arguments:
            case (
                "torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2",
                (Storage() as storage, offset, tuple(size), tuple(stride), *_),
            ):
                return self._tensor(storage, offset, size, stride)
            case "torch._utils _rebuild_parameter" | "torch.nn.parameter Parameter", (Tensor() as data, *_):
                return data
            case "torch Size", (tuple(size),):
                return size
            case "collections OrderedDict" | "builtins set" | "__builtin__ set", ():
                return Mapping()
            case "collections OrderedDict", (list(pairs),):
                self._count_copied(len(pairs))
                if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
                    raise _not_written("a dictionary without keys")
                _check_keys([pair[0] for pair in pairs])
                return Mapping()
            case "builtins set" | "__builtin__ set", (list(items),):
                self._count_copied(len(items))
                _check_keys(items)
                return Mapping()
            case "_codecs encode", (str(text), "latin1" | "latin-1"):
                self._count_copied(len(text))
                return Opaque()
            case "torch device" | "torch.serialization _get_layout", _:
                return Opaque()
        raise _not_written(f"a call of {function.name.replace(' ', '.')} with such arguments")

    def _tensor(
        self, storage: Storage, offset: Any, size: tuple[Any, ...], stride: tuple[Any, ...]
    ) -> Tensor:
        counts = (offset, *size, *stride)
        if len(size) > MAX_DIMENSIONS or len(size) != len(stride) or not all(map(_is_count, counts)):
            raise _not_written("a tensor of no possible shape")
        items = 1
        for n in size:
            items *= n
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if items and last >= storage.items:
            raise CheckpointError(
                "A tensor in the file reaches beyond the end of its data: the file was cut off or damaged. "
                "Upload it again.",
                code="truncated_file",
            )
        self._declared.tensor_bytes += items * storage.item_bytes
        return Tensor(items * storage.item_bytes)

    def _count_copied(self, items: int) -> None:
        self._copied += items
        if self._copied > MAX_COPIED:
            raise CheckpointError(
                "The pickle in the file copies its objects over and over. It was not loaded.",
                code="archive_bomb",
            )


def _check_keys(keys: list[Any]) -> None:
    # Python hashes a tuple in a tuple in a tuple on the C stack, and crashes when that ends.
    for key in keys:
        parts = key if type(key) is tuple else (key,)
        if not all(part is None or isinstance(part, str | int | float) for part in parts):
            raise _not_written("a key that is neither a name nor a number")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_COUNT


def _broken() -> CheckpointError:
    return CheckpointError(
        "The pickle in the file is broken: the file was cut off or damaged. Upload it again.",
        code="truncated_file",
    )


def _not_written(what: str) -> CheckpointError:
    return CheckpointError(
        f"The file's pickle has {what}, which torch.save does not write for a state dict. It was not run. "
        'Save the weights alone: torch.save(network.state_dict(), "network.pt"), or save it as .safetensors.',
        code="unsafe_pickle",
    )


# What torch.save writes, and no other instruction.
_INSTRUCTIONS: dict[str, Callable[[Machine, Any], None]] = {
    **dict.fromkeys(_VALUES, Machine.push),
    "PROTO": lambda machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push(Mapping()),
    "GLOBAL": lambda machine, name: machine.push(Global(name)),
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get,
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "MARK": Machine.mark,
    "EMPTY_TUPLE": lambda machine, _: machine.tuple_of(0),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "TUPLE": Machine.tuple_of_marked,
    "APPEND": Machine.append,
    "APPENDS": Machine.append_marked,
    "SETITEM": Machine.set_item,
    "SETITEMS": Machine.set_marked,
    "BINPERSID": Machine.refer,
    "REDUCE": Machine.call,
    "BUILD": Machine.build,
    "STOP": Machine.stop,
}
