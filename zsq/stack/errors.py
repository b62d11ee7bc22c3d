"""What can go wrong with the stack itself."""

from __future__ import annotations

from zsq.errors import ClientError


class StackError(ClientError):
    """The stack cannot start, or a part of it cannot be kept running."""
