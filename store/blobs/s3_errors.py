"""What S3 and the way to it may answer, as the store's own errors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from store.errors import BlobMissing, Unavailable

log = logging.getLogger(__name__)

_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})


@contextmanager
def reached(sha256: str | None = None) -> Iterator[None]:
    """`sha256` is the blob that is asked for: that it is missing is an error of its own."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code"))
        if sha256 is not None and code in _MISSING:
            raise BlobMissing(f"The stored file {sha256} is gone. Upload it again.") from None
        log.warning("the blob store refused: %s", error)
        raise Unavailable(f"The blob store refused ({code}). Try again soon.") from error
    except (BotoCoreError, Boto3Error, HTTPError) as error:
        log.warning("the blob store cannot be reached: %s", error)
        raise Unavailable("The blob store cannot be reached. Try again soon.") from error
