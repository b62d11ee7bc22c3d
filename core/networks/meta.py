"""Networks whose parameters have shapes but no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _MetaParameters(TorchFunctionMode):
    """Puts on the meta device what modules allocate for parameters, and nothing else.

    torch.device("meta") would also move the small tables that some networks compute while they are
    built (RegNet its widths, Swin its index tables), whose values are needed.
    """

    _ALLOCATORS = (torch.empty, torch.zeros, torch.ones)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in self._ALLOCATORS and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@contextmanager
def without_memory() -> Iterator[None]:
    """What is built inside allocates nothing for its parameters: milliseconds for any size."""
    with _MetaParameters(), torch.no_grad():
        yield
