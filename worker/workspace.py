"""A folder for one attempt: inputs fetched in, outputs published, gone afterwards."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from core.errors import RunError
from store.blobs import BlobRef, BlobStore, verify_file
from store.errors import Unavailable
from store.tables import Artifact
from worker.held import Held, hold
from worker.patience import patiently
from worker.plain_files import open_plain

# core's, named here since the parent does without torch. Files are served as what they are said to be.
MEDIA_TYPES = ("application/octet-stream", "application/json", "image/png")
# As users save them, on whatever system.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LOCK = ".lock"

log = logging.getLogger(__name__)


class Taking(Protocol):
    """What publishing needs of a store."""

    def put_file(self, file: BinaryIO) -> BlobRef: ...


@dataclass(frozen=True, slots=True)
class Workspace:
    """`published` stores a file once more, by its sha256. `folder` is a descriptor of `output`,
    from before anybody could put something else in its place."""

    root: Path
    folder: int
    published: dict[str, Callable[[], BlobRef]] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """What is to be published."""
        return self.root / "output"

    @property
    def scratch(self) -> Path:
        """What the run may write for itself."""
        return self.root / "scratch"

    def bring(self, blobs: BlobStore, sha256: str, go_on: Callable[[], bool] = lambda: True) -> Path | None:
        """The bytes as a file, which stays though the store's be deleted; None when `go_on` says no.

        Raises BlobMissing, and BlobCorrupt when the store gives other bytes.
        """
        copy = self.root / "input" / sha256
        if copy.exists():
            return copy
        copy.parent.mkdir(exist_ok=True)
        own = blobs.local_path(sha256)
        if own is not None:
            # A second name costs no copy, where the file system knows such.
            with contextlib.suppress(OSError):
                copy.hardlink_to(own)
        whole = False
        try:
            bring = verify_file if copy.exists() else blobs.fetch
            whole = bring(sha256, copy, go_on)
        finally:
            if not whole:
                copy.unlink(missing_ok=True)
        return copy if whole else None

    def publish(
        self, blobs: Taking, files: Sequence[dict[str, Any]], go_on: Callable[[], bool]
    ) -> list[Artifact] | None:
        """Stores the files; None when `go_on` says no in between. `hold_blobs` before they get rows.

        A store that is away is borne for a while; then it raises Unavailable. The child named the files, and
        the child has read strangers' bytes: only plain files in `output` itself are taken, under names of
        their own and as what results are. Raises RunError for others.
        """
        artifacts: list[Artifact] = []
        for file in files:
            if not go_on():
                return None
            name, path = str(file["name"]), Path(str(file["path"]))
            if path.parent != self.output:
                raise _no_such(name)
            if not _NAME.fullmatch(name) or name in {artifact.name for artifact in artifacts}:
                raise RunError(f"The run named {name[:100]!r} as a result, which no result may be named.")
            if file["media_type"] not in MEDIA_TYPES:
                raise RunError(f"The run named {name!r} as a result of a kind that is not published.")
            store = partial(self._store, blobs, path.name, name)
            try:
                blob = patiently(store, Unavailable, f"could not store {name!r}", go_on)
            except Unavailable:
                if go_on():
                    raise
                return None
            self.published[blob.sha256] = store
            artifacts.append(
                Artifact(
                    name=name,
                    blob_sha256=blob.sha256,
                    bytes=blob.size,
                    media_type=file["media_type"],
                )
            )
        return artifacts

    def _store(self, blobs: Taking, file: str, name: str) -> BlobRef:
        with self._open(file, name) as source:
            return blobs.put_file(source)

    def _open(self, file: str, name: str) -> BinaryIO:
        """Raises RunError for what is no plain file, whatever the child made of it and of its folder."""
        try:
            return open_plain(file, self.folder)
        except (OSError, ValueError) as reason:
            raise _no_such(name) from reason


def _no_such(name: str) -> RunError:
    return RunError(f"The run named {name[:100]!r} as a result, but wrote no such file.")


@contextmanager
def workspace(parent: Path, name: str) -> Iterator[Workspace]:
    """`parent/name`, empty at first, for this user alone, removed at the end."""
    parent.mkdir(parents=True, exist_ok=True)
    root = parent / name
    # Names do not repeat, so nobody but `remove_abandoned` can hold it, for a moment.
    with hold(_lock_of(root), wait=True):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(mode=0o700)
        try:
            (root / "output").mkdir()
            folder = os.open(root / "output", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                space = Workspace(root, folder)
                space.scratch.mkdir()
                yield space
            finally:
                os.close(folder)
        finally:
            shutil.rmtree(root, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Removes the workspaces that killed workers left behind: those that nobody holds.

    One that this user may not remove stays, and is told of.
    """
    if not parent.is_dir():
        return
    for name in sorted({path.name.removesuffix(_LOCK) for path in parent.iterdir()}):
        root = parent / name
        try:
            with hold(_lock_of(root)):
                log.info("removing %s, left by a worker that was killed", name)
                shutil.rmtree(root, ignore_errors=True)
            if root.exists():
                log.warning("of %s something is left that cannot be removed", name)
        except Held:
            continue
        except OSError as error:
            log.warning("%s cannot be removed: %s", name, error.strerror or error)


def _lock_of(root: Path) -> Path:
    return root.with_name(root.name + _LOCK)
