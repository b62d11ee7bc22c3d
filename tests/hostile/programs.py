"""Pickles by hand: programs that must never run, and programs that only waste."""

from __future__ import annotations

import functools
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from tests.integration.bad_files import Trap, repacked, saved, zipped

STATE = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
VERSION = b"\x80\x02M\xe9\x03."
SYSTEM = b"\x80\x02}q\0."
PROTO_2 = b"\x80\x02"
# A float tensor of one item over a storage of one, as torch.save writes it, up to its sizes.
_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
_STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu"


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def shell(marker: Path) -> bytes:
    return text(f"touch {marker}")


@functools.cache
def _good() -> bytes:
    return saved(STATE)


def in_zip(program: bytes) -> bytes:
    """In the place of a good checkpoint's pickle; storage 0 has six floats."""
    return repacked(_good(), {"/data.pkl": program})


def legacy(program: bytes, keys: bytes = b"\x80\x02]X\x01\0\0\x000a.", data: bytes = bytes(12)) -> bytes:
    """As torch wrote files before 1.6: five pickles, then each storage's length and memory.

    Its references say at their end of which storage they are a view: of none.
    """
    return MAGIC + VERSION + SYSTEM + program.replace(b"tQ", b"NtQ") + keys + data


def tensor(
    items: int = 1, size: tuple[int, ...] = (1,), stride: tuple[int, ...] = (1,), offset: int = 0
) -> bytes:
    """A state dict of one tensor that declares what it is told to."""
    shape = b"".join(b"(" + b"".join(map(number, counts)) + b"t" for counts in (size, stride))
    storage = _STORAGE + number(items) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    made = _TENSOR + b"(" + storage + number(offset) + shape + b"\x89" + hooks + b"tR"
    return PROTO_2 + b"}" + text("w") + made + b"s."


# --- programs: each makes `marker` when something runs it -----------------------------------------


def reduce(marker: Path, protocol: int = 2) -> bytes:
    return pickle.dumps(Trap(marker), protocol)


def inst(marker: Path) -> bytes:
    return b"(S'touch %s'\nios\nsystem\n." % str(marker).encode()


def obj(marker: Path) -> bytes:
    return PROTO_2 + b"(cos\nsystem\n" + shell(marker) + b"o."


def newobj(marker: Path) -> bytes:
    return PROTO_2 + b"cos\npopen\n" + shell(marker) + b"\x85\x81."


def newobj_ex(marker: Path) -> bytes:
    return b"\x80\x04csubprocess\nPopen\n" + text("touch") + text(str(marker)) + b"\x86\x85}\x92."


def build(marker: Path) -> bytes:
    """An object whose __setstate__ is os.system, and its state the command."""
    state = b"}" + text("__setstate__") + b"cos\nsystem\ns"
    return PROTO_2 + b"ctypes\nSimpleNamespace\n)\x81" + state + b"b" + shell(marker) + b"b."


def stack_global_of_memo(marker: Path) -> bytes:
    """The name of the module lies in the memo, far from where it is used."""
    return (
        b"\x80\x04"
        + text("posix")
        + b"\x940"
        + text("system")
        + b"\x940h\0h\1\x93"
        + shell(marker)
        + b"\x85R."
    )


def dotted(marker: Path) -> bytes:
    """A name that walks out of an allowed module."""
    return b"\x80\x04" + text("torch") + text("serialization.os.system") + b"\x93" + shell(marker) + b"\x85R."


def dotted_global(marker: Path) -> bytes:
    return PROTO_2 + b"ctorch\nserialization.os.system\n" + shell(marker) + b"\x85R."


def getattr_chain(marker: Path) -> bytes:
    found = b"cbuiltins\ngetattr\ncos\n__dict__\n" + text("get") + b"\x86R" + text("system") + b"\x85R"
    return PROTO_2 + found + shell(marker) + b"\x85R."


def loads_again(marker: Path) -> bytes:
    """A pickle that unpickles another."""
    inner = reduce(marker)
    return b"\x80\x03c_pickle\nloads\nB" + struct.pack("<I", len(inner)) + inner + b"\x85R."


def buffers(marker: Path) -> bytes:
    """Protocol 5: a bytearray of eight-byte length before the call."""
    return b"\x80\x05\x96" + struct.pack("<Q", 4) + b"abcd0cos\nsystem\n" + shell(marker) + b"\x85R."


RUNNABLE = {
    **{f"REDUCE, protocol {protocol}": (lambda m, p=protocol: reduce(m, p)) for protocol in range(6)},
    "INST": inst,
    "OBJ": obj,
    "BUILD": build,
    "STACK_GLOBAL out of the memo": stack_global_of_memo,
    "a dotted name, STACK_GLOBAL": dotted,
    "getattr": getattr_chain,
    "a pickle in the pickle": loads_again,
    "BYTEARRAY8": buffers,
}


# --- pickles that do nothing but cost --------------------------------------------------------------


def hex_doubled(times: int) -> bytes:
    """Twice the bytes at every step: 34 steps make 16 GiB."""
    once = b"c_codecs\nencode\n"
    first = text("x" * 1024) + text("latin1") + b"\x86R"
    return PROTO_2 + once * (times + 1) + first + (text("hex") + b"\x86R") * times + b"."


def encoded_over_and_over(times: int) -> bytes:
    begin = PROTO_2 + b"c_codecs\nencode\nq\0" + text("x" * 2**20) + b"q\1" + text("latin1") + b"\x86q\2"
    return begin + b"R](" + b"h\0h\2R" * times + b"e."


def copied_over_and_over(times: int) -> bytes:
    """A set of ten thousand numbers, and sets of the same list after it."""
    items = b"(" + b"".join(number(n) for n in range(10_000)) + b"e"
    return PROTO_2 + b"cbuiltins\nset\nq\0]" + items + b"\x85q\1R" + b"h\0h\1R" * times + b"."


def named_over_and_over(times: int) -> bytes:
    """One tensor under many names."""
    first = PROTO_2 + b"}" + tensor(6)[3:-2] + b"q\x09s"
    return first + b"".join(text(str(n)) + b"h\x09s" for n in range(times)) + b"."


def repeated(instruction: bytes, times: int) -> bytes:
    return PROTO_2 + instruction * times + b"."


def a_long_text(mebibytes: int) -> bytes:
    return PROTO_2 + text("x" * (mebibytes << 20)) + b"."


def deflated(program: bytes) -> bytes:
    """In a zip that stays small on disk."""
    with zipfile.ZipFile(io.BytesIO(saved(STATE))) as source:
        members = {name: source.read(name) for name in source.namelist() if not name.endswith("data.pkl")}
    return zipped({**members, "archive/data.pkl": program}, zipfile.ZIP_DEFLATED)


def changed(**tensors: Any) -> bytes:
    return saved({**STATE, **tensors})
