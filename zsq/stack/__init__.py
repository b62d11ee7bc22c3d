"""The whole service on one machine: broker, migrations, API and workers as supervised processes.

    with Stack(data_dir=Path("data"), port=0) as stack:
        print(stack.url)

`up()` is the same at a terminal, until Ctrl-C. Nothing of the service is imported here.
"""

from zsq.stack.errors import StackError
from zsq.stack.stack import Stack
from zsq.stack.up import up

__all__ = ["Stack", "StackError", "up"]
