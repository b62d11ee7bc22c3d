"""The hostile files: what each is, how it is made, and the code with which it must be refused."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from tests.hostile import archives, pictures, programs
from tests.integration import bad_files as files
from tests.integration.bad_cases import small_network

BROKEN, UNSAFE, BOMB, FORMAT = "truncated_file", "unsafe_pickle", "archive_bomb", "unsupported_format"
NO_STATE, DTYPE, NOT_FINITE = "not_a_state_dict", "unsupported_dtype", "non_finite_weights"
DATASET, SHAPE, LABELS = "invalid_dataset", "invalid_dataset_shape", "labels_out_of_range"

Make = Callable[[Path], bytes]
Cases = dict[str, tuple[Make, str]]


@dataclass(frozen=True)
class Case:
    """`make` takes the path that a program in the file would create, if one ever ran."""

    kind: str
    make: Make
    code: str


def state() -> dict[str, torch.Tensor]:
    return dict(small_network().state_dict())


def with_tensors(**tensors: Any) -> Make:
    """A network's checkpoint with some tensors in the place of others; `__` stands for a dot."""
    return lambda _: files.saved(state() | {key.replace("__", "."): value for key, value in tensors.items()})


def fixed(data: Callable[[], bytes]) -> Make:
    return lambda _: data()


# --- checkpoints -------------------------------------------------------------------------------------

PROGRAMS: Cases = {
    **{f"pickle: {name}": (make, UNSAFE) for name, make in programs.RUNNABLE.items()},
    **{
        f"pickle in a torch zip: {name}": (lambda m, make=make: programs.in_zip(make(m)), UNSAFE)
        for name, make in programs.RUNNABLE.items()
    },
    "a dotted name, GLOBAL": (lambda m: programs.in_zip(programs.dotted_global(m)), UNSAFE),
    "NEWOBJ": (lambda m: programs.in_zip(programs.newobj(m)), UNSAFE),
    "NEWOBJ_EX": (lambda m: programs.in_zip(programs.newobj_ex(m)), UNSAFE),
    "EXT1": (lambda m: programs.in_zip(b"\x80\x02\x82\1)R."), UNSAFE),
    "EXT4": (lambda m: programs.in_zip(b"\x80\x02\x84\1\0\0\0)R."), UNSAFE),
    "PERSID": (lambda m: programs.in_zip(b"Pstorage\n."), UNSAFE),
    "a reference that is a container with its source": (
        lambda m: programs.in_zip(
            b"\x80\x02("
            + programs.text("module")
            + b"ctorch.nn.parameter\nParameter\n"
            + programs.text(str(m))
            + programs.text("pass")
            + b"tQ."
        ),
        UNSAFE,
    ),
    "torch's own importer": (
        lambda m: programs.in_zip(
            b"\x80\x02ctorch._utils\n_import_dotted_name\n" + programs.text("os.system") + b"\x85R."
        ),
        UNSAFE,
    ),
    "a program beside the weights": (lambda m: files.trapped_checkpoint(programs.STATE, m), UNSAFE),
    "a program in a legacy file": (lambda m: files.trapped_legacy_checkpoint(programs.STATE, m), UNSAFE),
    "a program behind a legacy file's weights": (
        lambda m: files.trapped_behind_tensors(programs.STATE, m),
        UNSAFE,
    ),
    "a program under a name in capitals": (
        lambda m: _with_member(files.saved(programs.STATE), "DATA.PKL", programs.reduce(m)),
        FORMAT,
    ),
    "a tensor built by BUILD": (
        fixed(lambda: programs.in_zip(programs.tensor()[:-2] + b")b" + b"s.")),
        UNSAFE,
    ),
}

PICKLE_BOMBS: Cases = {
    "bytes doubled by a codec": (fixed(lambda: programs.in_zip(programs.hex_doubled(40))), UNSAFE),
    "a text encoded over and over": (
        fixed(lambda: programs.deflated(programs.encoded_over_and_over(4000))),
        BOMB,
    ),
    "a list copied over and over": (
        fixed(lambda: programs.in_zip(programs.copied_over_and_over(1000))),
        BOMB,
    ),
    "a million dictionaries": (fixed(lambda: programs.deflated(programs.repeated(b"}", 1_100_000))), BOMB),
    "sets of one byte each": (fixed(lambda: programs.deflated(programs.repeated(b"\x8f", 100_000))), UNSAFE),
    "a text of 17 MiB": (fixed(lambda: programs.deflated(programs.a_long_text(17))), BOMB),
    "a number of 2 GiB": (fixed(lambda: programs.in_zip(b"\x80\x02\x8b\xff\xff\xff\x7f.")), BOMB),
    "a text of 2^62 bytes": (
        fixed(lambda: programs.in_zip(b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b".")),
        BOMB,
    ),
    "a place in the memo past all memory": (
        fixed(lambda: programs.in_zip(b"\x80\x02}r\xff\xff\xff\xff.")),
        NO_STATE,
    ),
    "a hundred thousand marks": (fixed(lambda: programs.deflated(programs.repeated(b"(", 100_000))), BROKEN),
    "two hundred thousand tuples in each other": (
        fixed(lambda: programs.deflated(b"\x80\x02)" + b"\x85" * 200_000 + b".")),
        NO_STATE,
    ),
    "a key of two hundred thousand tuples": (
        fixed(lambda: programs.deflated(b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.")),
        UNSAFE,
    ),
    "a list that holds itself": (fixed(lambda: programs.in_zip(b"\x80\x02]q\0h\0a.")), NO_STATE),
    "a dictionary that holds itself": (
        fixed(lambda: programs.in_zip(b"\x80\x02}q\0" + programs.text("model") + b"h\0s.")),
        NO_STATE,
    ),
    "a legacy file that wants 32 GiB": (
        fixed(lambda: programs.legacy(programs.tensor(items=2**33, size=(2**33,)))),
        BROKEN,
    ),
    "a legacy tensor larger than its storage": (
        fixed(lambda: programs.legacy(programs.tensor(size=(2**31,)), data=struct.pack("<qf", 1, 1.0))),
        BROKEN,
    ),
    "a legacy storage that nothing fills": (
        fixed(lambda: programs.legacy(programs.tensor(), keys=b"\x80\x02].", data=bytes(64))),
        BROKEN,
    ),
    "a legacy list of storages that is none": (
        fixed(lambda: programs.legacy(programs.tensor(), keys=b"\x80\x02)" + b"\x85" * 1000 + b".")),
        BROKEN,
    ),
    "a storage larger than its member": (
        fixed(lambda: programs.in_zip(programs.tensor(items=2**40, size=(2**40,)))),
        BROKEN,
    ),
    "a tensor larger than its storage": (
        fixed(lambda: programs.in_zip(programs.tensor(items=6, size=(2**40,)))),
        BROKEN,
    ),
    "a tensor that begins past its storage": (
        fixed(lambda: programs.in_zip(programs.tensor(items=6, offset=2**40))),
        BROKEN,
    ),
    "a step past the storage": (
        fixed(lambda: programs.in_zip(programs.tensor(items=6, size=(2, 2), stride=(2**40, 1)))),
        BROKEN,
    ),
    "a negative step": (fixed(lambda: programs.in_zip(programs.tensor(items=6, stride=(-1,)))), UNSAFE),
    "a negative size": (fixed(lambda: programs.in_zip(programs.tensor(items=6, size=(-1,)))), UNSAFE),
    "a negative storage": (fixed(lambda: programs.in_zip(programs.tensor(items=-1))), UNSAFE),
    "a size past all numbers": (
        fixed(lambda: programs.in_zip(programs.tensor(items=6, size=(2**900, 2**900), stride=(1, 1)))),
        UNSAFE,
    ),
    "sixty dimensions": (
        fixed(lambda: programs.in_zip(programs.tensor(items=6, size=(1,) * 60, stride=(1,) * 60))),
        UNSAFE,
    ),
    "a step of zero": (
        fixed(lambda: files.saved({"conv1.weight": torch.zeros(1).expand(1 << 34)})),
        BOMB,
    ),
    "a thousand views of one storage": (
        fixed(lambda: files.saved({str(n): _SHARED.view(-1) for n in range(1000)})),
        BOMB,
    ),
}

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
            fixed(lambda share=share: _cut(files.saved(state()), share)),
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

_DENSE = torch.ones(10)
_SHARED = torch.ones(8192)

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
        lambda _: _with_member(files.saved(programs.STATE), "CONSTANTS.PKL", b"\x80\x02)."),
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

# --- evaluation sets ---------------------------------------------------------------------------------

X, Y = pictures.GOOD_X, pictures.GOOD_Y
PNG = files.picture()

ARRAYS: Cases = {
    "objects for images": (
        lambda m: pictures.arrays(x=pictures.npy(pictures.header((1,), "'|O'"), programs.reduce(m))),
        DATASET,
    ),
    "objects for labels": (
        lambda m: pictures.arrays(y=pictures.npy(pictures.header((1,), "'|O'"), programs.reduce(m))),
        DATASET,
    ),
    "code in a header": (
        lambda m: pictures.arrays(x=pictures.npy(f"__import__('os').system('touch {m}')\n", bytes(64))),
        DATASET,
    ),
    "a header of brackets": (
        lambda _: pictures.arrays(x=pictures.npy("(" * 4000 + ")" * 4000 + "\n")),
        DATASET,
    ),
    "a header of 4 GiB": (
        lambda _: pictures.arrays(
            x=pictures.npy(" " * (15 << 20), version=(2, 0), length=2**32 - 1), compression=8
        ),
        DATASET,
    ),
    "a version of the future": (
        lambda _: pictures.arrays(x=pictures.npy(pictures.header((1,)), version=(9, 0))),
        DATASET,
    ),
    "2^40 images": (
        lambda _: pictures.arrays(x=pictures.npy(pictures.header((2**40, 8, 8, 1)), bytes(64))),
        SHAPE,
    ),
    "a shape past 2^64": (
        lambda _: pictures.arrays(x=pictures.npy(pictures.header((2**63, 2**63, 8)), bytes(64))),
        SHAPE,
    ),
    "minus two images": (
        lambda _: pictures.arrays(x=pictures.npy(pictures.header((-2, -8, 8, 1)), bytes(128))),
        SHAPE,
    ),
    "a thousand dimensions": (
        lambda _: pictures.arrays(x=pictures.npy(pictures.header((1,) * 1000), bytes(1))),
        SHAPE,
    ),
    "structured images": (
        lambda _: pictures.arrays(
            x=pictures.npy(pictures.header((2,), "[('a', '|O'), ('b', '<i4')]"), bytes(24))
        ),
        DATASET,
    ),
    "images of text": (
        lambda _: pictures.arrays(x=pictures.npy(pictures.header((2, 8), "'<U4'"), bytes(256))),
        SHAPE,
    ),
    "images in Fortran order": (
        lambda _: pictures.arrays(
            x=pictures.npy(pictures.header((2, 8, 8, 1)).replace("False", "True"), bytes(128))
        ),
        DATASET,
    ),
    "three million images of one pixel": (
        lambda _: pictures.arrays(
            pictures.npy(pictures.header((3_000_000, 1, 1, 1)), bytes(3_000_000)),
            pictures.npy(pictures.header((3_000_000,)), bytes(3_000_000)),
            8,
        ),
        SHAPE,
    ),
    "an image of 64 million numbers and more": (
        lambda _: pictures.arrays(
            pictures.npy(pictures.header((1, 1025, 1024, 64)), bytes(1025 * 1024 * 64)),
            pictures.npy(pictures.header((1,)), b"\0"),
            8,
        ),
        BOMB,
    ),
    "an npz bomb": (lambda _: files.npz_bomb(24), BOMB),
    "negative labels": (lambda _: pictures.labels(-1, 0), LABELS),
    "labels past all networks": (lambda _: pictures.labels(0, 100_000), LABELS),
    "labels past 2^63": (lambda _: pictures.labels(0, 2**64 - 1, dtype="<u8"), LABELS),
    "labels of floats": (lambda _: pictures.labels(0, 1, dtype="<f4"), SHAPE),
    "labels of NaN": (lambda _: pictures.labels(0, np.nan, dtype="<f8"), SHAPE),
    "labels of dates": (lambda _: pictures.labels(0, 1, dtype="<M8[s]"), SHAPE),
    "an npz that was cut off": (lambda _: _cut(pictures.arrays(), 0.9), BROKEN),
    "a checksum that is wrong": (lambda _: pictures.arrays().replace(Y, Y[:-1] + b"\7"), BROKEN),
}


def _pictured(data: bytes, name: str = "0_a/a.png") -> Make:
    return lambda _: files.zipped({name: data})


PICTURES: Cases = {
    "a PNG of 3.6 gigapixels": (lambda _: files.zipped({"0/a.png": pictures.png(60_000, 60_000)}), BOMB),
    "a PNG of 2^62 pixels": (lambda _: files.zipped({"0/a.png": pictures.png(2**31 - 1, 2**31 - 1)}), BOMB),
    "a PNG of 64 million zeros": (lambda _: files.zipped({"0/a.png": pictures.png_of_zeros(8000)}), BOMB),
    "a PNG with a text of 48 MiB": (lambda _: files.zipped({"0/a.png": pictures.png_with_text(48)}), DATASET),
    "a JPEG of 4 gigapixels": (lambda _: files.zipped({"0/a.jpg": pictures.jpeg(65_500, 65_500)}), BOMB),
    "a JPEG of a thousand scans": (lambda _: files.zipped({"0/a.jpg": pictures.jpeg_of_scans(1000)}), BOMB),
    "a BMP of 2^60 pixels": (lambda _: files.zipped({"0/a.bmp": pictures.bmp(2**30, 2**30)}), BOMB),
    "a PPM of 10^18 pixels": (lambda _: files.zipped({"0/a.ppm": pictures.ppm(10**9, 10**9)}), BOMB),
    "a PPM that ends early": (lambda _: files.zipped({"0/a.ppm": pictures.ppm(5000, 5000)}), DATASET),
    "a WebP of 268 megapixels": (lambda _: files.zipped({"0/a.webp": pictures.webp(16_383, 16_383)}), BOMB),
    **{
        f"a {kind} that is named PNG": (
            lambda _, kind=kind: files.zipped({"0/a.png": pictures.other(kind)}),
            DATASET,
        )
        for kind in ("GIF", "TIFF", "ICO", "PCX", "JPEG2000", "PDF", "EPS")
    },
    "an SVG that is named PNG": (lambda _: files.zipped({"0/a.png": pictures.SVG}), DATASET),
    "a link that is named PNG": (lambda _: _link_in_zip(), DATASET),
    "half a PNG": (lambda _: files.zipped({"0/a.png": PNG[: len(PNG) // 2]}), DATASET),
}

FOLDERS: Cases = {
    "an empty zip": (lambda _: files.zipped({}), DATASET),
    "210,000 images": (lambda _: archives.many_entries(210_000), BOMB),
    "images that overlap": (lambda _: archives.overlapping("0/{}.png", 1000, 1 << 20), BOMB),
    "a zip with a path that leaves": (lambda _: files.zipped({"../0/a.png": PNG}), DATASET),
    "a folder with a null": (lambda _: files.zipped({"0/a.png": PNG, "1_\x07b/a.png": PNG}), DATASET),
    "a folder of five thousand digits": (lambda _: files.zipped({"9" * 5000 + "/a.png": PNG}), DATASET),
    "a folder of twenty digits": (lambda _: files.zipped({"9" * 20 + "/a.png": PNG}), LABELS),
    "a path of three hundred folders": (lambda _: files.zipped({"a/" * 300 + "a.png": PNG}), DATASET),
    "a tar with an absolute path": (lambda _: archives.tar(archives.file("/etc/a.png", PNG)), DATASET),
    "a tar with a path that leaves": (lambda _: archives.tar(archives.file("0/../../a.png", PNG)), DATASET),
    "a tar of links": (
        lambda _: archives.tar(
            (archives.member("0/a.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
            (archives.member("0/b.png", type=tarfile.LNKTYPE, linkname="../../etc/passwd"), b""),
        ),
        DATASET,
    ),
    "a tar of devices": (
        lambda _: archives.tar(
            (archives.member("0/a.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5), b""),
            (archives.member("0/b.png", type=tarfile.BLKTYPE, devmajor=8), b""),
            (archives.member("0/c.png", type=tarfile.FIFOTYPE), b""),
        ),
        DATASET,
    ),
    "a sparse file of 4 MiB": (lambda _: archives.sparse("0/a.png", 4 << 20), DATASET),
    "a sparse file of 60 MiB": (lambda _: archives.sparse("0/a.png", 60 << 20), BOMB),
    "a sparse file of 8 GiB": (lambda _: archives.sparse("0/a.png", 8**11 - 1), BOMB),
    "a sparse file of the newer kind": (
        lambda _: archives.pax("GNU.sparse.size", str(2**50), "0/a.png", PNG),
        BOMB,
    ),
    "a size past the file": (lambda _: archives.claiming("0/a.png", 2**32), BOMB),
    "a negative size": (lambda _: archives.pax("size", "-512", "0/a.png", PNG), DATASET),
    "a name of 100 MiB": (
        lambda _: archives.claiming("././@LongLink", 100 << 20, tarfile.GNUTYPE_LONGNAME),
        DATASET,
    ),
    "a header of 100 MiB": (lambda _: archives.claiming("x", 100 << 20, tarfile.XHDTYPE), DATASET),
    "a name of 5,000 characters": (
        lambda _: archives.pax("path", "0/" + "a" * 5000 + ".png", "0/a.png", PNG),
        DATASET,
    ),
    "a name that is no UTF-8": (lambda _: archives.tar(archives.file("0_\udcff/a.png", PNG)), DATASET),
    "a name with an escape sequence": (
        lambda _: archives.tar(archives.file("0_\x1b[2J/a.png", PNG)),
        DATASET,
    ),
    "80,000 links in a gzip": (lambda _: archives.links(80_000), BOMB),
    "a tar bomb in a gzip": (
        lambda _: archives.tar(
            archives.file("0/a.png", PNG), archives.file("b", bytes(40 << 20)), pack=gzip.compress
        ),
        BOMB,
    ),
    "a gzip that is damaged": (
        lambda _: gzip.compress(files.tarred({"0/a.png": PNG}))[:-30] + bytes(30),
        BROKEN,
    ),
    "a bzip2": (lambda _: b"BZh91AY&SY" + bytes(100), DATASET),
    "a tar that was cut off": (lambda _: files.tarred({"0/a.png": PNG, "1/a.png": PNG})[:1300], BROKEN),
    "a checkpoint for a set": (lambda _: files.saved(programs.STATE), DATASET),
    "a program for a set": (lambda m: programs.reduce(m), DATASET),
    "noise for a set": (lambda _: random.Random(2).randbytes(9999), DATASET),
}


def _cases(kind: str, *tables: Cases) -> dict[str, Case]:
    return {name: Case(kind, make, code) for table in tables for name, (make, code) in table.items()}


CORPUS: dict[str, Case] = {
    **_cases("checkpoint", PROGRAMS, PICKLE_BOMBS, ZIPS, SAFETENSORS, WEIGHTS, FOREIGN),
    **_cases("dataset", ARRAYS, PICTURES, FOLDERS),
}


# --- how some of them are made -----------------------------------------------------------------------


def _plain() -> bytes:
    return files.zipped({"archive/data.pkl": programs.tensor(), "archive/data/0": bytes(4)})


def _with_member(archive: bytes, base: str, data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    folder = next(iter(members)).partition("/")[0]
    return files.zipped({**members, f"{folder}/{base}": data})


def _twice(archive: bytes) -> bytes:
    buffer = io.BytesIO(archive)
    with zipfile.ZipFile(buffer, "a") as file:
        first = file.infolist()[0]
        again = zipfile.ZipInfo("x")
        file.writestr(again, b"x")
        again.filename = first.filename
    return buffer.getvalue()


def _cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


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


def _link_in_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        link = zipfile.ZipInfo("0/a.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        file.writestr(link, "/etc/passwd")
    return buffer.getvalue()
