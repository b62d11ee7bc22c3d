"""What hypothesis makes: valid files with a few bytes changed, pickles of random instructions, forms."""

from __future__ import annotations

import base64
import functools
import gzip
import io
import struct
from collections.abc import Callable

import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st

from tests.hostile import archives, pictures, programs
from tests.integration import bad_files as files

_NUMBERS = [-1, 0, 1, 2, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1]
_WORDS = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from(_NUMBERS).map(lambda n: struct.pack("<q", n)),
    st.sampled_from(_NUMBERS).map(lambda n: struct.pack("<i", n & 0x7FFFFFFF)),
    st.sampled_from(_NUMBERS).map(lambda n: str(n).encode()),
    st.sampled_from(
        [b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"\xff" * 8, b"\0" * 8, b"../", b"\n"]
    ),
)
_EDITS = st.lists(
    st.tuples(
        st.integers(0, 2**16 - 1),
        st.sampled_from(["write", "write", "write", "insert", "delete", "repeat", "cut", "flip"]),
        _WORDS,
    ),
    min_size=1,
    max_size=6,
)


def edited(data: bytes, edits: list[tuple[int, str, bytes]]) -> bytes:
    """Each edit at its share (of 65,536) of the length that the file then has."""
    result = bytearray(data)
    for share, kind, word in edits:
        at = share * len(result) >> 16
        match kind:
            case "write":
                result[at : at + len(word)] = word
            case "insert":
                result[at:at] = word
            case "delete":
                del result[at : at + len(word)]
            case "repeat":
                result[at:at] = result[at : at + 16 * len(word)]
            case "cut":
                del result[at:]
            case "flip" if at < len(result):
                result[at] ^= 1 << (word[0] & 7)
    return bytes(result)


def changed(*seeds: Callable[[], bytes]) -> st.SearchStrategy[bytes]:
    made = st.sampled_from([functools.cache(seed) for seed in seeds])
    return st.builds(lambda seed, edits: edited(seed(), edits), made, _EDITS)


# --- checkpoints -------------------------------------------------------------------------------------

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.half": torch.ones(2).half(), "n": torch.tensor(3)}


def _legacy() -> bytes:
    return files.saved(STATE, _use_new_zipfile_serialization=False)


def _deflated() -> bytes:
    return files.repacked(files.saved(STATE), {}, 8)


def _wrapped() -> bytes:
    return files.saved(
        {"state_dict": {key: torch.nn.Parameter(value) for key, value in STATE.items() if value.ndim}}
    )


CHECKPOINTS = changed(
    lambda: files.saved(STATE), _legacy, _deflated, _wrapped, lambda: safetensors.torch.save(STATE)
)

# Pieces of pickles that torch.save writes, and some that it does not.
_PIECES = st.one_of(
    st.sampled_from(
        [
            *(
                b"(",
                b")",
                b"]",
                b"}",
                b"N",
                b"\x88",
                b"\x89",
                b"\x85",
                b"\x86",
                b"\x87",
                b"t",
                b"a",
                b"e",
                b"s",
            ),
            *(b"u", b"R", b"R", b"Q", b"Q", b"b", b"\x81", b"0", b"2", b"\x8f", b"\x94", b"."),
            *(b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"ctorch\nLongStorage\n"),
            *(
                b"ctorch._utils\n_rebuild_tensor_v2\n",
                b"ctorch._utils\n_rebuild_parameter\n",
                b"ctorch\nSize\n",
            ),
            *(
                b"c_codecs\nencode\n",
                b"cbuiltins\nset\n",
                b"ctorch.nn.parameter\nParameter\n",
                b"ctorch\ndevice\n",
            ),
            *map(programs.text, ("storage", "cpu", "0", "1", "latin1", "hex", "w", "model")),
        ]
    ),
    st.sampled_from(_NUMBERS).map(programs.number),
    st.integers(0, 9).map(lambda n: b"q" + bytes([n])),
    st.integers(0, 9).map(lambda n: b"h" + bytes([n])),
    st.binary(min_size=1, max_size=3),
)
_GOOD = (
    (6, (2, 3), (3, 1), 0),
    (6, (6,), (1,), 0),
    (6, (), (), 5),
    (6, (0, 2), (2, 1), 0),
    (6, (2,), (2,), 1),
)
_GOOD_ITEMS = st.sampled_from([programs.tensor(*tensor)[3:-1] for tensor in _GOOD])
_STORAGES = st.builds(
    lambda items, size, stride, offset: programs.tensor(items, size, stride, offset)[3:-2],
    st.sampled_from([0, 1, 2, 6, 2**40]),
    st.lists(st.sampled_from([0, 1, 2, 3, 2**33]), max_size=3).map(tuple),
    st.lists(st.sampled_from([0, 1, 2, 3, 2**33]), max_size=3).map(tuple),
    st.sampled_from([0, 1, 5, 2**33]),
)
_MIXED = st.lists(st.one_of(_PIECES, _GOOD_ITEMS, _STORAGES), max_size=20)
_NEARLY_GOOD = st.tuples(
    st.lists(_GOOD_ITEMS, min_size=1, max_size=3),
    st.lists(st.one_of(_PIECES, _STORAGES), max_size=1),
    st.lists(_GOOD_ITEMS, max_size=3),
).map(lambda parts: [piece for part in parts for piece in part])
_PROGRAMS = st.one_of(_MIXED, _NEARLY_GOOD).map(lambda pieces: b"\x80\x02}" + b"".join(pieces) + b".")
PICKLES = st.one_of(
    _PROGRAMS.map(programs.in_zip),
    _PROGRAMS.map(lambda program: programs.legacy(program, data=struct.pack("<q", 6) + bytes(24))),
    _PROGRAMS,
)

# --- evaluation sets ---------------------------------------------------------------------------------


def _images() -> dict[str, bytes]:
    kinds = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "webp": "WEBP", "ppm": "PPM"}
    return {f"{n}_a/{n}.{ending}": files.picture(kind) for n, (ending, kind) in enumerate(kinds.items())}


def _npz() -> bytes:
    return files.npz(x=np.arange(192, dtype=np.uint8).reshape(3, 8, 8), y=np.arange(3))


def _pax() -> bytes:
    return archives.pax("comment", "x" * 600, "0/a.png", files.picture())


DATASETS = changed(
    _npz,
    pictures.arrays,
    lambda: pictures.arrays(compression=8),
    lambda: files.zipped(_images()),
    lambda: files.zipped(_images(), 8),
    lambda: files.tarred(_images()),
    _pax,
)
TGZ = changed(lambda: files.tarred(_images()), _pax).map(lambda data: gzip.compress(data, 1))


def _picture(kind: str, **options: object) -> Callable[[], bytes]:
    def make() -> bytes:
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(buffer, kind, **options)
        return buffer.getvalue()

    return make


PICTURES = changed(
    *map(_picture, ("PNG", "JPEG", "BMP", "WEBP", "PPM")), _picture("JPEG", progressive=True)
).map(lambda data: files.zipped({"0/a.png": data}))

# --- requests ------------------------------------------------------------------------------------------

_FORM = (
    b'--b\r\nContent-Disposition: form-data; name="architecture"\r\n\r\ncifar/resnet8\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: x/y\r\n\r\n'
    b"by\r\n--tes\r\n"
    b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xc3\xa4\r\n--b--\r\n'
)
FORMS = st.one_of(
    st.just(_FORM), changed(lambda: _FORM), st.binary(max_size=200).map(lambda data: b"--b\r\n" + data)
)
SPLITS = st.lists(st.integers(0, 400), max_size=12)
_HEADER = st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\r\n"), max_size=120)
CONTENT_TYPES = st.one_of(
    _HEADER,
    _HEADER.map(lambda text: "multipart/form-data; boundary=" + text),
    _HEADER.map(lambda text: "multipart/form-data; " + text),
    st.just("multipart/form-data; boundary=b"),
    st.just("application/octet-stream"),
)
QUERIES = st.lists(
    st.tuples(
        st.sampled_from(["architecture", "name", "mean", "input_shape", "x", ""]), st.text(max_size=20)
    ),
    max_size=4,
)
_BASE64 = st.one_of(st.binary(max_size=12).map(lambda data: base64.b64encode(data).decode()), _HEADER)
METADATA = st.lists(st.tuples(st.sampled_from(["kind", "name", "a", ""]), _BASE64), max_size=4).map(
    lambda pairs: ",".join(f"{key} {value}" for key, value in pairs)
)
CHECKSUMS = st.one_of(_HEADER, _BASE64.map(lambda text: "sha256 " + text))
LENGTHS = st.one_of(_HEADER, st.integers(-1, 2**70).map(str))
_BOUND = st.one_of(st.just(""), st.integers(0, 3000).map(str), st.integers(0, 2**70).map(str))
RANGES = st.one_of(
    _HEADER,
    _HEADER.map(lambda text: "bytes=" + text),
    st.lists(st.tuples(_BOUND, _BOUND), min_size=1, max_size=30).map(
        lambda pairs: "bytes=" + ",".join(f"{first}-{last}" for first, last in pairs)
    ),
)
