from __future__ import annotations

import pytest

from api.errors import RangeNotSatisfiable
from api.services.ranges import asked_range


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-4", (2, 5)),
        ("bytes=2-", (2, 10)),
        ("bytes=2-99", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("Bytes = 2-4 ", (2, 5)),
        ("bytes=2-4,", (2, 5)),
        (None, None),
        ("", None),
        ("bytes=-", None),
        ("bytes=4-2", None),
        ("bytes=a-b", None),
        ("bytes=0-1,3-4", None),
        ("lines=2-4", None),
        ("bytes=" + "9" * 19 + "-", None),
    ],
)
def test_a_header_names_a_range_or_the_whole(header: str | None, found: tuple[int, int] | None) -> None:
    assert asked_range(header, 10) == found


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=10-12", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_a_range_outside_the_file_is_refused_with_its_size(header: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable) as raised:
        asked_range(header, size)
    assert raised.value.headers == {"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"}
