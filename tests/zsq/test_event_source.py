"""The format of event streams, also where chunks end in the middle of a line or a character."""

from __future__ import annotations

import pytest

from zsq.event_source import EventSource, Message


def read(text: str, size: int = 1 << 20, source: EventSource | None = None) -> list[Message]:
    data = text.encode()
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    return list((source or EventSource()).read(chunks))


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_messages_come_whole_however_they_were_cut(size: int, end: str) -> None:
    lines = ["\ufeff: a comment", "id: 1", "event: phase", 'data: {"a":', "data:  1}", ""]
    lines += ["data: größe ✓", "", ""]
    assert read(end.join(lines), size) == [
        Message("phase", '{"a":\n 1}', "1"),
        Message("message", "größe ✓", "1"),
    ]


def test_only_line_feeds_and_carriage_returns_end_a_line() -> None:
    """JSON may hold all of these as they are."""
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"
    assert read(f"data: {text}\n\n") == [Message("message", text, "")]


def test_what_says_nothing_is_no_message() -> None:
    assert read("event: status\n\n: comment\n\nunknown: x\n\nretry: 5\n\n") == []
    assert read("data\n\n") == [Message("message", "", "")], "but an empty text is one"
    assert read("data: x") == read("data: x\n") == [], "nor is what broke off"


def test_ids_last_until_another_comes() -> None:
    source = EventSource("7")
    text = "data: a\n\nid: 8\ndata: b\n\nid: x\0y\ndata: c\n\nid: 9\n\ndata: d\n\nid\ndata: e\n\n"
    got = read(text, source=source)
    assert [(message.data, message.id) for message in got] == [
        *(("a", "7"), ("b", "8"), ("c", "8"), ("d", "9"), ("e", "")),
    ]
    assert source.last_id == ""


def test_an_id_counts_when_its_message_is_whole() -> None:
    source = EventSource("7")
    assert read("id: 8\ndata: half", source=source) == []
    assert source.last_id == "7", "so that the message is sent again"


def test_the_server_says_how_long_to_wait() -> None:
    source = EventSource()
    for value, seconds in (("1500", 1.5), ("soon", 1.5), ("-1", 1.5), ("0", 0)):
        read(f"retry: {value}\n", source=source)
        assert source.retry == seconds
