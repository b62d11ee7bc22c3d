"""Downloads that end whole or not at all: resumed with Range, checked by sha256, renamed into place."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from zsq.errors import ApiError, DownloadCorrupt
from zsq.transport import Transport

CHUNK_BYTES = 1 << 18
_SHA256 = re.compile(r'"([0-9a-f]{64})"')

OnBytes = Callable[[int, int | None], None]  # bytes so far, bytes in all where they are known


def download(
    transport: Transport, path: str, target: Path, *, patience: float = 60.0, on_bytes: OnBytes | None = None
) -> str:
    """Fetches `path` into the file `target` and returns its sha256 in hex.

    The server's strong ETag is the file's sha256. What has arrived stands in `<target>.<sha256>.part`,
    so that a later call goes on where this one stopped. Raises `DownloadCorrupt` when the bytes do not
    have the announced sum, `ConnectionLost` when nothing new arrives for `patience` seconds.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    give_up = time.monotonic() + patience
    while True:
        before = _arrived(target)
        try:
            part, sha256 = _fetch(transport, path, target, patience, on_bytes)
            break
        except httpx.TransportError as error:
            if _arrived(target) > before:
                give_up = time.monotonic() + patience
            elif time.monotonic() > give_up:
                raise transport.lost(error) from error
            transport.sleep(0.2)
    if _sum(part) != sha256:
        part.unlink()
        raise DownloadCorrupt(f"{target.name}: the bytes that arrived do not have the sum {sha256}.")
    part.replace(target)
    return sha256


def _parts(target: Path) -> list[Path]:
    """Of this file alone: what others are called like it is not ours to delete."""
    ours = re.compile(re.escape(target.name) + r"\.[0-9a-f]{64}\.part")
    return sorted(p for p in target.parent.glob("*.part") if ours.fullmatch(p.name))


def _arrived(target: Path) -> int:
    return sum(p.stat().st_size for p in _parts(target))


def _fetch(
    transport: Transport, path: str, target: Path, patience: float, on_bytes: OnBytes | None
) -> tuple[Path, str]:
    headers = {"accept-encoding": "identity"}
    earlier = _parts(target)
    if earlier and (size := earlier[0].stat().st_size):
        sha256 = earlier[0].name.split(".")[-2]
        # If-Range: should the file be another by now, the server sends all of it.
        headers |= {"range": f"bytes={size}-", "if-range": f'"{sha256}"'}
    try:
        return _receive(transport, path, target, headers, patience, on_bytes)
    except ApiError as error:
        # 416: the part already has every byte (or is longer than the file): start over from nothing.
        if error.status != 416:
            raise
        for part in earlier:
            part.unlink()
        return _receive(transport, path, target, {"accept-encoding": "identity"}, patience, on_bytes)


def _receive(
    transport: Transport,
    path: str,
    target: Path,
    headers: dict[str, str],
    patience: float,
    on_bytes: OnBytes | None,
) -> tuple[Path, str]:
    with transport.stream("GET", path, patience=patience, headers=headers) as response:
        found = _SHA256.fullmatch(response.headers.get("etag", ""))
        if found is None:
            raise DownloadCorrupt(f"{target.name}: the server announced no sha256 (ETag) to check against.")
        part = target.with_name(f"{target.name}.{found[1]}.part")
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        for other in _parts(target):
            if other != part:
                other.unlink()
        with part.open("ab" if resumed else "wb") as file:
            length = response.headers.get("content-length")
            total = file.tell() + int(length) if length else None
            for chunk in response.iter_raw(CHUNK_BYTES):
                file.write(chunk)
                if on_bytes:
                    on_bytes(file.tell(), total)
            file.flush()
            os.fsync(file.fileno())
    return part, found[1]


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
