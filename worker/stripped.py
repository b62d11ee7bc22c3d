"""Imported by the forkserver before all else, and by nobody besides: whoever imports it hides its memory.
If its environment holds what children must not see, the same process begins anew without that.

So the worker's own environment stays as it is: its other threads read it. And a forkserver that
multiprocessing launches by itself is like any other.
"""

import os
import sys

from worker.environment import fit
from worker.hardening import hide_memory

hide_memory()
if (_environment := fit(os.environ)) != dict(os.environ):
    # Not only taken out: what a process was given stays in its memory, and children are copies of that.
    os.execve(sys.executable, sys.orig_argv, _environment)
