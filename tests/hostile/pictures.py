"""Small files that say they are large pictures, and arrays whose headers lie."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from tests.integration.bad_files import zipped


def png(width: int, height: int, *extra: tuple[bytes, bytes], data: bytes = b"") -> bytes:
    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), *extra, (b"IDAT", data or zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def png_of_zeros(side: int) -> bytes:
    """A real picture: every row is there."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * side)
    data = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    return png(side, side, data=data)


def png_with_text(mebibytes: int) -> bytes:
    return png(
        8, 8, (b"zTXt", b"key\0\0" + zlib.compress(bytes(mebibytes << 20))), data=zlib.compress(bytes(200))
    )


def jpeg(width: int, height: int) -> bytes:
    """A whole picture whose size in the header was changed."""
    data = bytearray(_saved((8, 8), "JPEG"))
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">2H", height, width)
    return bytes(data)


def jpeg_of_scans(count: int) -> bytes:
    """Progressive, the last pass over all pixels again and again: libjpeg's oldest trap."""
    data = _saved((4000, 4000), "JPEG", progressive=True)
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def bmp(width: int, height: int) -> bytes:
    head = struct.pack("<I2i2H6I", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<I2HI", 1000, 0, 0, 54) + head + bytes(100)


def ppm(width: int, height: int) -> bytes:
    return b"P6 %d %d 255\n" % (width, height) + bytes(100)


def webp(width: int, height: int) -> bytes:
    """An animation on a canvas of that size."""
    frame = _saved((8, 8), "WEBP")[12:]
    canvas = bytes([2, 0, 0, 0]) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    place = bytes(6) + bytes([7, 0, 0, 7, 0, 0, 100, 0, 0, 0])
    body = b"".join(
        kind + struct.pack("<I", len(data)) + data
        for kind, data in ((b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", place + frame))
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def other(kind: str) -> bytes:
    return _saved((8, 8), kind)


SVG = b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<svg xmlns="http://www.w3.org/2000/svg"><text>&x;</text></svg>"""


def npy(
    header: str, data: bytes = b"", version: tuple[int, int] = (1, 0), length: int | None = None
) -> bytes:
    """An array whose header is the text given."""
    text = header.encode("latin-1")
    kind = "<H" if version[0] == 1 else "<I"
    size = struct.pack(kind, len(text) if length is None else length)
    return b"\x93NUMPY" + bytes(version) + size + text + data


def header(shape: object, descr: str = "'|u1'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n"


GOOD_X = npy(header((2, 8, 8, 1)), bytes(128))
GOOD_Y = npy(header((2,)), b"\0\1")


def arrays(x: bytes = GOOD_X, y: bytes = GOOD_Y, compression: int = 0) -> bytes:
    return zipped({"x.npy": x, "y.npy": y}, compression)


def labels(*values: int, dtype: str = "<i8") -> bytes:
    data = np.array(values, dtype=dtype)
    return arrays(y=npy(header(data.shape, repr(dtype)), data.tobytes()))


def _saved(size: tuple[int, int], kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, kind, **options)
    return buffer.getvalue()
