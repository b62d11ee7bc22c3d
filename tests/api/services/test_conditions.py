from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from api.errors import PreconditionFailed
from api.services.conditions import is_unchanged

ETAG = '"abc"'
MODIFIED = datetime(2026, 1, 2, 3, 4, 5, 900_000, tzinfo=UTC)
THEN, BEFORE, LATER = (f"Fri, 02 Jan 2026 03:04:0{second} GMT" for second in (5, 4, 6))
AGES_AGO = "Fri, 31 Dec 1999 23:59:59 GMT"


def asked(**conditions: str) -> bool:
    headers = Headers({name.replace("_", "-"): value for name, value in conditions.items()})
    return is_unchanged(headers, ETAG, MODIFIED)


@pytest.mark.parametrize(
    ("conditions", "unchanged"),
    [
        ({}, False),
        ({"if_none_match": ETAG}, True),
        ({"if_none_match": f"W/{ETAG}"}, True),
        ({"if_none_match": f'"other", {ETAG}'}, True),
        ({"if_none_match": "*"}, True),
        ({"if_none_match": '"other"'}, False),
        ({"if_modified_since": THEN}, True),
        ({"if_modified_since": LATER}, True),
        ({"if_modified_since": BEFORE}, False),
        ({"if_modified_since": AGES_AGO}, False),
        ({"if_modified_since": "yesterday"}, False),
        ({"if_modified_since": ""}, False),
        ({"if_modified_since": THEN, "if_none_match": '"other"'}, False),
        ({"if_modified_since": BEFORE, "if_none_match": ETAG}, True),
        ({"if_match": ETAG}, False),
        ({"if_match": "*", "if_none_match": ETAG}, True),
        ({"if_match": f'"other", {ETAG}', "if_unmodified_since": BEFORE}, False),
        ({"if_unmodified_since": THEN}, False),
        ({"if_unmodified_since": "yesterday"}, False),
    ],
)
def test_a_file_that_the_caller_has_is_unchanged(conditions: dict[str, str], unchanged: bool) -> None:
    assert asked(**conditions) is unchanged


@pytest.mark.parametrize(
    "conditions",
    [
        {"if_match": '"other"'},
        {"if_match": f"W/{ETAG}"},
        {"if_match": '"other"', "if_none_match": ETAG},
        {"if_match": '"other"', "if_unmodified_since": LATER},
        {"if_unmodified_since": BEFORE},
    ],
)
def test_a_precondition_that_does_not_hold_is_refused(conditions: dict[str, str]) -> None:
    with pytest.raises(PreconditionFailed):
        asked(**conditions)


def test_the_same_header_twice_is_one_list() -> None:
    twice = Headers(raw=[(b"if-none-match", b'"other"'), (b"if-none-match", ETAG.encode())])
    assert is_unchanged(twice, ETAG, MODIFIED)


_WORDS = st.sampled_from(["Fri,", "02", "Jan", "2026", "03:04:05", "GMT", ":", "-", "9" * 5000, ","])


@given(st.one_of(st.text(st.characters(max_codepoint=255)), st.lists(_WORDS).map(" ".join)))
def test_whatever_is_sent_as_a_date_is_read_or_ignored(text: str) -> None:
    assert asked(if_modified_since=text) in (True, False)
