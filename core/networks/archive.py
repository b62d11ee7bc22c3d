"""What a zip says about itself, checked before anything in it is read.

Used for torch checkpoints, `.npz` files and zipped image folders. The central directory may lie, so
these checks bound what the readers behind them can be made to allocate; they do not replace them.
"""

from __future__ import annotations

import zipfile
import zlib
from itertools import pairwise
from pathlib import Path, PurePosixPath

from core.errors import InputError
from core.networks import zip_ends
from core.networks.foreign import is_plain, shown

MAX_MEMBERS = 200_000
MAX_DIRECTORY_BYTES = 32 * 2**20  # Python makes half a kilobyte of objects out of each 46 bytes
MAX_NAME = 1024
MAX_DEPTH = 32
MAX_TOTAL_BYTES = 8 * 2**30
MAX_RATIO = 100  # deflate reaches 1032 at most; photographs and weights stay below 3
RATIO_FREE_BYTES = 16 * 2**20  # small members (sorted labels) may compress as well as they like
_NESTED = (".zip", ".gz", ".bz2", ".xz", ".7z", ".tar", ".tgz", ".rar", ".zst")
_LOCAL_HEADER_BYTES = 30  # and the name
_ENCRYPTED = 0x1 | 0x40  # the usual and the strong kind
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# What zipfile raises, all told, while it reads members of a damaged archive.
READ_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError)


def checked_members(
    path: Path, error: type[InputError], code: str = "unsupported_format"
) -> list[zipfile.ZipInfo]:
    """Every file of the zip at `path`, in the archive's order.

    Raises `error` with truncated_file for a broken archive, archive_bomb for one that would unpack to
    too much, and `code` for one with unusable members (paths that leave it, passwords, duplicates).
    """
    try:
        ends = zip_ends.read_ends(path)
        if ends.members > MAX_MEMBERS or ends.directory_bytes > MAX_DIRECTORY_BYTES:
            raise _bomb(error, f"it has {ends.members:,} members; at most {MAX_MEMBERS:,} are read")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except READ_ERRORS as reason:
        raise error(
            "The file begins like a zip archive but its directory, which stands at the end, cannot be read: "
            "it was cut off or damaged. Upload it again.",
            code="truncated_file",
        ) from reason

    total = sum(member.file_size for member in members)
    if total > MAX_TOTAL_BYTES:
        raise _bomb(error, f"it unpacks to {total:,} bytes; at most {MAX_TOTAL_BYTES:,} are read")
    if _overlap(members, ends.directory):
        raise _bomb(error, "its members overlap: together they claim more bytes than the file has")
    seen: set[str] = set()
    for member in members:
        _check_member(member, error, code)
        if member.filename in seen:
            raise error(f"The archive holds {shown(member.filename)!r} twice.", code=code)
        seen.add(member.filename)
    return [member for member in members if not member.is_dir()]


def is_unsafe_path(name: str) -> bool:
    """Whether unpacking `name` could write outside the folder it is unpacked into, or could not be shown."""
    path = PurePosixPath(name)
    if not is_plain(name, MAX_NAME) or len(path.parts) > MAX_DEPTH:
        return True
    return path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name[:3]


def unsafe_path(name: str, error: type[InputError], code: str) -> InputError:
    return error(
        "The archive holds a path that leaves it, or is empty, too long, too deep or has control characters: "
        f"{shown(name)!r}.",
        code=code,
        field="file",
    )


def _overlap(members: list[zipfile.ZipInfo], directory: int) -> bool:
    """Whether two members share bytes, or one reaches into the directory."""
    spans = sorted(
        (m.header_offset, m.header_offset + _LOCAL_HEADER_BYTES + m.compress_size) for m in members
    )
    spans.append((directory, directory))
    return any(end > begin for (_, end), (begin, _) in pairwise(spans))


def _check_member(member: zipfile.ZipInfo, error: type[InputError], code: str) -> None:
    if is_unsafe_path(member.filename):
        raise unsafe_path(member.filename, error, code)
    name = shown(member.filename)
    if member.flag_bits & _ENCRYPTED:
        raise error("The archive is encrypted. Upload it without a password.", code=code)
    if member.compress_type not in _METHODS:
        raise error(
            f"{name!r} is compressed in an unusual way. Use plain zip (stored or deflated).",
            code=code,
        )
    if member.filename.lower().endswith(_NESTED):
        raise _bomb(error, f"it holds another archive, {name!r}; upload its contents instead")
    if member.file_size > RATIO_FREE_BYTES + MAX_RATIO * member.compress_size:
        raise _bomb(
            error, f"{name!r} would unpack from {member.compress_size:,} to {member.file_size:,} bytes"
        )


def _bomb(error: type[InputError], reason: str) -> InputError:
    return error(f"The archive was not opened: {reason}.", code="archive_bomb")
