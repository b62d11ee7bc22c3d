"""Zips and safetensors that are not what they say."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from typing import Any

import safetensors.torch

from tests.hostile import archives, programs
from tests.hostile.cases import BOMB, BROKEN, DTYPE, FORMAT, NO_STATE, Cases, cut, fixed, state
from tests.integration import bad_files as files

ZIPS: Cases = {
    "a deflate bomb": (
        fixed(lambda: files.repacked(files.saved(programs.STATE), {"/data/0": bytes(24 << 20)}, 8)),
        BOMB,
    ),
    "zips in a zip": (
        fixed(lambda: files.zipped({f"{n}.zip": files.zeros_deflated("a", 1) for n in range(16)})),
        BOMB,
    ),
    "members that overlap": (
        fixed(lambda: archives.overlapping("archive/data/{}", 1000, 1 << 20)),
        BOMB,
    ),
    "members that claim more than they have": (
        fixed(lambda: archives.central(files.saved(programs.STATE), 24, struct.pack("<L", 2**31))),
        BOMB,
    ),
    "members that claim less than they have": (
        fixed(lambda: archives.central(files.saved(programs.STATE), 24, struct.pack("<L", 3))),
        BROKEN,
    ),
    "members beyond the file": (
        fixed(lambda: archives.central(files.saved(programs.STATE), 42, struct.pack("<L", 2**31))),
        BOMB,
    ),
    "two ends": (
        fixed(lambda: archives.two_ends(files.saved(programs.STATE), files.zipped({"a.txt": b"x"}))),
        BROKEN,
    ),
    "an end of 64 bits that is elsewhere": (
        fixed(lambda: archives.zip64_elsewhere(files.zipped({"archive/data.pkl": b"\x80\x02}."}))),
        BROKEN,
    ),
    "something before the archive": (fixed(lambda: b"PK\3\4" + files.saved(programs.STATE)), BROKEN),
    "210,000 members": (fixed(lambda: archives.many_entries(210_000)), BOMB),
    "a million members that are not counted": (fixed(lambda: archives.hidden_entries(750_000)), BOMB),
    "one name twice": (lambda _: _twice(files.saved(programs.STATE)), FORMAT),
    "encrypted": (fixed(lambda: archives.central(files.saved(programs.STATE), 8, b"\1\0")), FORMAT),
    "an unknown compression": (
        fixed(lambda: archives.central(files.saved(programs.STATE), 10, b"\x63\0")),
        FORMAT,
    ),
    "another name in the member's own header": (
        fixed(lambda: archives.patched(_plain(), b"PK\3\4", 30, b"elsewher")),
        BROKEN,
    ),
    **{
        f"a path that leaves: {name[:20]!r}": (fixed(lambda name=name: archives.named(name)), FORMAT)
        for name in ("../../etc/cron.d/x", "/etc/passwd", "c:\\x", "a\\..\\..\\b", "a/../../b")
    },
    "a path with an escape sequence": (fixed(lambda: archives.named("archive/\x1b[2J\r\n.txt")), FORMAT),
    "a member without a name": (
        fixed(lambda: archives.nameless()),
        FORMAT,
    ),
    "a path of 60,000 characters": (fixed(lambda: archives.named("a" * 60_000)), FORMAT),
    "a path of 30,000 folders": (fixed(lambda: archives.named("a/" * 30_000 + "data.pkl")), FORMAT),
    **{
        f"cut off at {share:.0%}": (
            fixed(lambda share=share: cut(files.saved(state()), share)),
            BROKEN,
        )
        for share in (0.02, 0.31, 0.77, 0.999)
    },
    "bits flipped in the directory": (fixed(lambda: _flipped(_plain(), b"PK\1\2")), BROKEN),
    "nothing but a beginning": (fixed(lambda: b"PK\3\4"), BROKEN),
}

SAFETENSORS: Cases = {
    "a header of 2^63 bytes": (fixed(lambda: struct.pack("<Q", 2**63) + b'{"a":' + bytes(99)), FORMAT),
    "a header of 2^39 bytes": (fixed(lambda: struct.pack("<Q", 2**39) + b'{"a":' + bytes(99)), BOMB),
    "a header longer than the file": (fixed(lambda: struct.pack("<Q", 5000) + b'{"a":' + bytes(99)), BROKEN),
    "tensors that overlap": (lambda _: _safetensors(a=("F32", [2], [0, 8]), b=("F32", [2], [4, 12])), BROKEN),
    "a hole between tensors": (
        lambda _: _safetensors(a=("F32", [2], [0, 8]), b=("F32", [1], [12, 16])),
        BROKEN,
    ),
    "a tensor beyond the file": (lambda _: _safetensors(a=("F32", [2**20], [0, 2**22])), BROKEN),
    "offsets in reverse": (lambda _: _safetensors(a=("F32", [2], [8, 0])), FORMAT),
    "a negative count": (lambda _: _safetensors(a=("F32", [-2], [0, 8])), FORMAT),
    "a count that is no integer": (lambda _: _safetensors(a=("F32", [2.0], [0, 8])), FORMAT),
    "a product past 2^64": (lambda _: _safetensors(a=("F32", [2**63, 4], [0, 8])), FORMAT),
    "numbers of four thousand digits": (
        lambda _: _safetensors(a=("F32", [int("9" * 4000)] * 1500, [0, 8])),
        FORMAT,
    ),
    "a hundred thousand tensors": (
        lambda _: _safetensors(**{f"{n}": ("F32", [0], [0, 0]) for n in range(100_000)}),
        NO_STATE,
    ),
    "a hundred thousand dimensions": (lambda _: _safetensors(a=("F32", [1] * 100_000, [0, 4])), FORMAT),
    "a type of a mebibyte": (lambda _: _safetensors(a=("X" * 2**20, [1], [0, 4])), DTYPE),
    "a type that is a list": (lambda _: _safetensors(a=([["F32"]], [1], [0, 4])), DTYPE),
    "float8": (lambda _: _safetensors(a=("F8_E4M3", [4], [0, 4])), DTYPE),
    "one name twice, safetensors": (
        fixed(
            lambda: _header(
                b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
                b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
            )
        ),
        BROKEN,
    ),
    "deep JSON": (fixed(lambda: _header(b'{"a":' + b"[" * 2**20 + b"]" * 2**20 + b"}")), FORMAT),
    "JSON that is no UTF-8": (fixed(lambda: _header(b'{"\xff\xfe":1}')), FORMAT),
    "NaN in the header": (
        fixed(lambda: _header(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}')),
        FORMAT,
    ),
    "a name with a null": (lambda _: _safetensors(**{"a\0b": ("F32", [4], [0, 16])}), NO_STATE),
    "a name that is half a character": (lambda _: _safetensors(**{"\ud800": ("F32", [4], [0, 16])}), BROKEN),
    "a name of a mebibyte of prefixes": (
        lambda _: _safetensors(**{"module." * 150_000 + "w": ("F32", [4], [0, 16])}),
        NO_STATE,
    ),
    "safetensors cut off": (fixed(lambda: safetensors.torch.save(state())[:-100]), BROKEN),
}


def _plain() -> bytes:
    return files.zipped({"archive/data.pkl": programs.tensor(), "archive/data/0": bytes(4)})


def _twice(archive: bytes) -> bytes:
    buffer = io.BytesIO(archive)
    with zipfile.ZipFile(buffer, "a") as file:
        first = file.infolist()[0]
        again = zipfile.ZipInfo("x")
        file.writestr(again, b"x")
        again.filename = first.filename
    return buffer.getvalue()


def _flipped(archive: bytes, magic: bytes) -> bytes:
    data = bytearray(archive)
    data[archive.find(magic) + 28] ^= 0x5A
    return bytes(data)


def _header(text: bytes, data: bytes = bytes(16)) -> bytes:
    return files.safetensors_with_header(text, data)


def _safetensors(**entries: tuple[Any, list[Any], list[int]]) -> bytes:
    table = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        for name, (dtype, shape, offsets) in entries.items()
    }
    return _header(json.dumps(table).encode())
