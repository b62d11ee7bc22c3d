"""Zips and tars whose directories lie."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable

from tests.integration.bad_files import zipped

Member = tarfile.TarInfo


def patched(archive: bytes, magic: bytes, at: int, value: bytes, every: bool = True) -> bytes:
    """`value` at offset `at` of the records that begin with `magic`."""
    data = bytearray(archive)
    where = data.find(magic)
    while where >= 0:
        data[where + at : where + at + len(value)] = value
        where = data.find(magic, where + 4) if every else -1
    return bytes(data)


def central(archive: bytes, at: int, value: bytes) -> bytes:
    """Every entry of the directory changed: 8 flags, 10 method, 20 packed size, 24 size, 42 offset."""
    return patched(archive, b"PK\1\2", at, value)


def overlapping(name: str, copies: int, size: int) -> bytes:
    """Fifield's: one member's data, named by many entries of the directory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name.format(0), bytes(size))
        first = file.filelist[0]
        for index in range(1, copies):
            again = zipfile.ZipInfo(name.format(index))
            for attribute in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
                setattr(again, attribute, getattr(first, attribute))
            file.filelist.append(again)
    return buffer.getvalue()


def two_ends(seen_first: bytes, hidden: bytes) -> bytes:
    """`hidden` whole in the comment of another archive: whoever looks from the end finds the inner one."""
    at = seen_first.rfind(b"PK\5\6")
    comment = hidden + b"\0"
    return seen_first[: at + 20] + struct.pack("<H", len(comment)) + comment


def zip64_elsewhere(archive: bytes) -> bytes:
    """An end record of 64 bits that the locator does not point at: Python reads one, torch the other."""
    at = archive.rfind(b"PK\5\6")
    _, _, here, total, length, offset = struct.unpack_from("<2H2H2L", archive, at + 4)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, here, total, length, offset)
    lie = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 46, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)  # at the lie
    return archive[:at] + lie + record + locator + archive[at:]


def many_entries(count: int) -> bytes:
    """A directory alone, each entry the smallest there is; its members are not there."""
    entry = (
        struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
        + b"a"
    )
    directory = entry * count
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(directory), 4, 0)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), 4)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 4 + len(directory), 1)
    return b"PK\3\4" + directory + record + locator + end


def hidden_entries(count: int) -> bytes:
    """The same, but its end says that there is one."""
    return many_entries(count).replace(struct.pack("<2Q", count, count), struct.pack("<2Q", 1, 1))


def named(*names: str) -> bytes:
    return zipped(dict.fromkeys(names, b"x"))


def nameless() -> bytes:
    """A name that begins with a null, where Python ends it."""
    return named("xrchive/data.pkl").replace(b"xrchive", b"\0rchive")


def tar(*members: tuple[Member, bytes], pack: Callable[[bytes], bytes] = bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as file:
        for member, data in members:
            file.addfile(member, io.BytesIO(data) if data else None)
    return pack(buffer.getvalue())


def member(name: str, size: int = 0, **attributes: object) -> Member:
    info = Member(name)
    info.size = size
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info


def file(name: str, data: bytes) -> tuple[Member, bytes]:
    return member(name, len(data)), data


def sparse(name: str, real_size: int) -> bytes:
    """GNU's old form: a header that says how far its zeros reach, and no data."""
    header = bytearray(member(name, type=tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % real_size
    return summed(header) + bytes(1024)


def claiming(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A member whose header claims `size` bytes, of which none are there."""
    return member(name, size, type=kind).tobuf(tarfile.GNU_FORMAT) + bytes(2048)


def pax(key: str, value: str, name: str, data: bytes) -> bytes:
    """A member with an extended header; what cannot be UTF-8 goes in as it is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as file:
        info = member(name, len(data), pax_headers={key: value})
        file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def links(count: int) -> bytes:
    """A gzipped tar of nothing but links."""
    header = member("0/a.png", type=tarfile.SYMTYPE, linkname="/etc/passwd").tobuf(tarfile.GNU_FORMAT)
    return gzip.compress(header * count + bytes(1024))


def summed(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)
