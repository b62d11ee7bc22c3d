"""Functions of libc and calls of the kernel that Python has no names for."""

from __future__ import annotations

import ctypes
import os


def call(function: str, *arguments: object) -> int:
    """What libc's function, which returns an int, answers. Raises OSError when that is below 0."""
    return _checked(function, ctypes.CDLL(None, use_errno=True)[function], arguments)


def syscall(name: str, number: int, *arguments: object) -> int:
    """What the kernel answers; `name` is for the error. Raises OSError."""
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.restype = ctypes.c_long
    return _checked(name, function, (ctypes.c_long(number), *arguments))


def _checked(name: str, function: ctypes._NamedFuncPointer, arguments: tuple[object, ...]) -> int:
    answer = int(function(*arguments))
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return answer
