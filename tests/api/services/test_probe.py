from __future__ import annotations

import threading
from concurrent.futures import wait

from api.services.probe import Probe


def test_who_comes_while_it_asks_shares_the_answer() -> None:
    asked: list[int] = []
    go_on = threading.Event()

    def ask() -> int:
        asked.append(1)
        go_on.wait(30)
        return len(asked)

    probe = Probe("slow", ask)
    answers = [probe.answer() for _ in range(20)]
    assert not wait(answers, timeout=0.05).done
    go_on.set()
    assert [answer.result(30) for answer in answers] == [1] * 20
    assert probe.answer().result(30) == 2, "what comes later is asked anew"


def test_an_error_is_an_answer() -> None:
    def ask() -> int:
        raise ConnectionError("away")

    error = Probe("broken", ask).answer().exception(30)
    assert isinstance(error, ConnectionError)


def test_a_question_without_an_answer_does_not_keep_the_process_alive() -> None:
    never = threading.Event()
    Probe("hangs", never.wait).answer()
    (thread,) = [each for each in threading.enumerate() if each.name == "probe hangs"]
    assert thread.daemon
    never.set()
