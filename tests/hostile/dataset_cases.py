"""Evaluation sets: arrays, pictures and archives that lie."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile

import numpy as np

from tests.hostile import archives, pictures, programs
from tests.hostile.cases import BOMB, BROKEN, DATASET, LABELS, SHAPE, Cases, cut
from tests.integration import bad_files as files

Y, PNG = pictures.GOOD_Y, files.picture()

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
    "an npz that was cut off": (lambda _: cut(pictures.arrays(), 0.9), BROKEN),
    "a checksum that is wrong": (lambda _: pictures.arrays().replace(Y, Y[:-1] + b"\7"), BROKEN),
}


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
    "a member of a negative size": (lambda _: archives.pax("size", "-512", "0/a.png", PNG), DATASET),
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


def _link_in_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        link = zipfile.ZipInfo("0/a.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        file.writestr(link, "/etc/passwd")
    return buffer.getvalue()
