"""Bytes by their sha256: the protocol, and the stores behind it."""

from store.blobs.choose import make_blobs
from store.blobs.local import LocalBlobs
from store.blobs.protocol import BlobRef, BlobStore, BlobWriter
from store.blobs.verify import hashed, verify_file

__all__ = ["BlobRef", "BlobStore", "BlobWriter", "LocalBlobs", "hashed", "make_blobs", "verify_file"]
