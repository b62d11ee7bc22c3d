"""From a URL to a store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from store.blobs.local import LocalBlobs
from store.blobs.protocol import BlobStore


def make_blobs(url: str, s3_endpoint: str = "") -> BlobStore:
    """The store that a URL names: `file:///folder` or `s3://bucket/prefix`.

    `s3_endpoint` is the address of an S3 that is not Amazon's. Raises ValueError for another scheme.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalBlobs(Path(url2pathname(parts.netloc + parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        # Late: who keeps blobs in a folder need not load Amazon's library.
        from store.blobs.s3 import S3Blobs

        return S3Blobs(parts.netloc, unquote(parts.path).strip("/"), endpoint=s3_endpoint)
    raise ValueError(f"ZSQ_BLOBS_URL must be file:///folder or s3://bucket/prefix, not {url!r}")
