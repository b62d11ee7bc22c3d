"""Blob writers in async code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager

from anyio import CancelScope
from anyio.to_thread import run_sync

from store.blobs import BlobStore, BlobWriter


@asynccontextmanager
async def writers(blobs: BlobStore) -> AsyncIterator[Callable[[], BlobWriter]]:
    """What opens writers, in a thread; when the block ends they are closed in one, even if it was cancelled.

    Either asks the store, which may be far and slow to answer, and the event loop is everybody's.
    """
    stack = ExitStack()
    try:
        yield lambda: stack.enter_context(blobs.writer())
    finally:
        with CancelScope(shield=True):
            await run_sync(stack.close)
