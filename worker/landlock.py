"""Shuts a child out of the memory of all other processes of its user, /proc/<pid>/mem among the ways.

Landlock (https://docs.kernel.org/userspace-api/landlock.html, "Ptrace restrictions"): a process with a
domain of its own may trace none that is outside of it. Such a domain must handle some right; here it
forbids nothing with files.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

from worker import libc

# On all machines alike.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1
# Moving files between folders, which every domain forbids unless a rule allows it.
_ACCESS_FS_REFER = 1 << 13
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM})


class _RulesetAttributes(ctypes.Structure):
    """struct landlock_ruleset_attr, as of its first version."""

    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _PathBeneath(ctypes.Structure):
    """struct landlock_path_beneath_attr."""

    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def install() -> bool:
    """Binds this thread and what it starts, for good. False where there is no Landlock: another system, a
    kernel from before 5.19 or started without it, a sandbox around this process that refuses it.

    Needs no_new_privs. Raises OSError.
    """
    if sys.platform != "linux":
        return False
    try:
        ruleset = _ruleset()
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    try:
        libc.syscall("landlock_restrict_self", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _ruleset() -> int:
    attributes = _RulesetAttributes(_ACCESS_FS_REFER)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    ruleset = libc.syscall("landlock_create_ruleset", _CREATE_RULESET, ctypes.byref(attributes), size, 0)
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        allowed = _PathBeneath(_ACCESS_FS_REFER, root)
        rule = _RULE_PATH_BENEATH, ctypes.byref(allowed)
        libc.syscall("landlock_add_rule", _ADD_RULE, ruleset, *rule, 0)
    except BaseException:
        os.close(ruleset)
        raise
    finally:
        os.close(root)
    return ruleset
