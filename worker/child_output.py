"""What is printed inside a child: the last words of Python and of native code, and warnings of the latter.

The worker's own output is its log, in which a child that has been taken over could write lines of any
job. So it gets a file without a name in their place, whose end the worker logs as what it is.
"""

from __future__ import annotations

import logging
import os
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

# Python's last words before a crash, at most a hundred lines of the thread that crashed, fit.
LAST_BYTES = 16_000

log = logging.getLogger(__name__)


class ChildOutput:
    """In the parent: the file, in `folder`. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - until `close`

    def end(self) -> Connection:
        """For the child. A descriptor of its own, which the caller closes."""
        return Connection(os.dup(self._file.fileno()), readable=False)

    def close(self) -> None:
        """Logs the last of what was printed. Once the child has ended."""
        with self._file as file:
            try:
                size = os.fstat(file.fileno()).st_size
                # By no offset that a child may have moved.
                said = os.pread(file.fileno(), LAST_BYTES, max(0, size - LAST_BYTES))
            except OSError as error:
                log.warning("what the child printed cannot be read: %s", error)
                return
        if said:
            log.warning(
                "the child printed %d bytes, at the end: %s", size, said.decode(errors="replace").strip()
            )


def print_to(end: Connection) -> None:
    """In the child: its standard output and error are the parent's file from here on."""
    for descriptor in (1, 2):
        os.dup2(end.fileno(), descriptor)
    end.close()
