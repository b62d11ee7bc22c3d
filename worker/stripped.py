"""Imported by the forkserver before all else, and by nobody besides: whoever imports it hides its memory.
If its environment holds what children must not see, the same process begins anew without that.

So the worker's own environment stays as it is: its other threads read it. And a forkserver that
multiprocessing launches by itself is like any other.
"""

import os
import sys

from worker.environment import fit
from worker.hardening import hide_memory


def _hand_on_key() -> None:
    """From Python 3.14 on the forkserver reads a key from a pipe, closes that, and imports: who begins anew
    reads the key once more."""
    frame = sys._getframe()
    while "authkey_r" not in frame.f_locals:
        if frame.f_back is None:
            return
        frame = frame.f_back
    if (descriptor := frame.f_locals["authkey_r"]) is None:
        return
    reading, writing = os.pipe()
    os.write(writing, frame.f_locals["authkey"])
    os.close(writing)
    os.dup2(reading, descriptor)
    os.set_inheritable(descriptor, True)  # dup2 does not where both are the same


hide_memory()
if (_environment := fit(os.environ)) != dict(os.environ):
    _hand_on_key()
    # Not only taken out: what a process was given stays in its memory, and children are copies of that.
    os.execve(sys.executable, sys.orig_argv, _environment)
