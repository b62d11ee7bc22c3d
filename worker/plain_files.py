"""Files that a child has named: it has read strangers' bytes, and may have put anything in their place."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO


def open_plain(name: str, folder: int) -> BinaryIO:
    """A plain file in the folder that the descriptor stands for, never through a link, never waiting.

    `name` has no slashes. Raises OSError, and ValueError for what is no plain file.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    file = os.fdopen(os.open(name, flags, dir_fd=folder), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("not a plain file")
    return file
