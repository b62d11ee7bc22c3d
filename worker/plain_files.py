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
    descriptor = os.open(name, flags, dir_fd=folder)
    # Before `fdopen`, which leaves the descriptor of a folder open when it refuses it.
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a plain file")
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")
