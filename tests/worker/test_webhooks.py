from __future__ import annotations

import dataclasses
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from sqlalchemy import update
from standardwebhooks import Webhook, WebhookVerificationError

from store.tables import Job, WebhookDelivery, utc_now
from tests.worker.receiver import Receiver, receiving
from tests.worker.waiting import wait_for
from tests.worker.world import World
from worker import outbound, webhooks
from worker.abandonable import AbandonableCalls
from worker.services import Services
from worker.webhooks import deliver_due


def ended_job(world: World, url: str) -> str:
    job_id = world.job()
    with world.services.database.writing_engine.begin() as connection:
        connection.execute(update(Job).values(webhook_url=url))
    world.change(lambda work: work.jobs.request_cancel(job_id))
    return job_id


def near(world: World) -> Services:
    """Services that may call this machine."""
    allowed = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    store = world.services.store.model_copy(update={"webhook_allowed_networks": allowed})
    return dataclasses.replace(world.services, store=store)


def delivery(world: World, job_id: str) -> WebhookDelivery:
    with world.services.database.read() as work:
        (found,) = work.webhooks.of_job(job_id)
    return found


def make_due(world: World) -> None:
    with world.services.database.writing_engine.begin() as connection:
        connection.execute(update(WebhookDelivery).values(next_at=utc_now() - timedelta(seconds=1)))


def test_a_receiver_can_verify_what_it_hears(world: World) -> None:
    with receiving(204) as receiver:
        job_id = ended_job(world, f"{receiver.url}/hook?a=b")
        deliver_due(near(world))
        deliver_due(near(world))
    ((path, headers, body),) = receiver.heard
    assert path == "/hook?a=b"
    secret = world.change(lambda work: work.webhooks.secret("local"))
    message = Webhook(secret).verify(body, headers)
    assert message["type"] == "job.canceled" and message["data"]["job_id"] == job_id
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body.replace(b"canceled", b"succeeded"), headers)
    done = delivery(world, job_id)
    assert (done.status, done.attempts, done.error) == ("delivered", 1, None)


def test_it_is_sent_again_under_the_same_id_until_somebody_listens(world: World) -> None:
    with receiving(500, 302, 200) as receiver:
        job_id = ended_job(world, receiver.url)
        for heard in (1, 2, 3):
            deliver_due(near(world))
            assert len(receiver.heard) == heard
            deliver_due(near(world))
            assert len(receiver.heard) == heard, "not before its pause is over"
            if heard < 3:
                waiting = delivery(world, job_id)
                assert waiting.status == "pending" and "answered" in (waiting.error or "")
                make_due(world)
    assert delivery(world, job_id).status == "delivered"
    assert {path for path, _, _ in receiver.heard} == {"/"}, "a redirect is not followed"
    assert len({headers["webhook-id"] for _, headers, _ in receiver.heard}) == 1


def test_it_is_given_up_in_the_end_or_when_the_receiver_is_gone(world: World) -> None:
    with receiving(500) as receiver:
        job_id = ended_job(world, receiver.url)
        for _ in range(20):
            deliver_due(near(world))
            make_due(world)
    assert (delivery(world, job_id).status, len(receiver.heard)) == ("failed", 8)
    with receiving(410) as receiver:
        gone = ended_job(world, receiver.url)
        deliver_due(near(world))
    assert delivery(world, gone).status == "failed"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0177.0.0.1"])
def test_private_addresses_are_never_called(world: World, host: str) -> None:
    with receiving(200) as receiver:
        port = receiver.url.rpartition(":")[2]
        job_id = ended_job(world, f"http://{host}:{port}/")
        deliver_due(world.services)
        assert not receiver.heard
    refused = delivery(world, job_id)
    assert refused.status == "pending" and "ForbiddenAddress" in (refused.error or "")


def test_a_slow_receiver_holds_nobody_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "_SECONDS", 0.5)
    with receiving(200, pause=3) as slow, receiving(200) as quick:
        late = ended_job(world, slow.url)
        soon = ended_job(world, quick.url)
        deliver_due(near(world))
        assert "TimeoutError" in (delivery(world, late).error or "")
    assert delivery(world, soon).status == "delivered"


def test_all_that_is_due_is_sent_and_nothing_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "_AT_ONCE", 3)
    with receiving(200) as quick, receiving(500) as broken:
        good = [ended_job(world, quick.url) for _ in range(4)]
        bad = [ended_job(world, broken.url) for _ in range(4)]
        deliver_due(near(world))
        assert sorted(_bodies(quick)) == sorted(good)
        assert sorted(_bodies(broken)) == sorted(bad)


def test_a_worker_that_is_to_stop_begins_no_other_round(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_AT_ONCE", 3)
    world.services.stopping.set()
    with receiving(200) as receiver:
        for _ in range(4):
            ended_job(world, receiver.url)
        deliver_due(near(world))
        assert len(receiver.heard) == 3


def test_a_url_that_leads_nowhere_fails_alone(world: World) -> None:
    with receiving(200) as receiver:
        broken = [ended_job(world, url) for url in ("https://no-such-host.invalid/", "http://127.0.0.1:1/")]
        good = ended_job(world, receiver.url)
        deliver_due(near(world))
        assert _bodies(receiver) == [good]
    assert all(delivery(world, id).status == "pending" and delivery(world, id).error for id in broken)


def _bodies(receiver: Receiver) -> list[str]:
    return [json.loads(body)["data"]["job_id"] for _, _, body in receiver.heard]


class SlowNames:
    """A name server that answers for `*.slow.example` no sooner than it is `free`."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.answered: list[bytes] = []

    def getaddrinfo(self, host: Any, *arguments: Any, **options: Any) -> Any:
        if not host.endswith(b".slow.example"):
            return _getaddrinfo(host, *arguments, **options)
        self.free.wait(60)
        self.answered.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "temporary failure in name resolution")


_getaddrinfo = socket.getaddrinfo


@pytest.fixture
def slow_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowNames]:
    names = SlowNames()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.free.set()


def test_a_slow_name_server_is_waited_for_no_longer_than_anybody_else(
    world: World, monkeypatch: pytest.MonkeyPatch, slow_names: SlowNames
) -> None:
    monkeypatch.setattr(outbound, "_SECONDS", 0.5)
    late = ended_job(world, "http://a.slow.example/")
    deliver_due(near(world))
    assert not slow_names.answered
    assert "TimeoutError" in (delivery(world, late).error or "")


def test_what_became_of_one_is_written_while_others_are_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch, slow_names: SlowNames
) -> None:
    monkeypatch.setattr(outbound, "_SECONDS", 60)
    with receiving(200) as quick, delivering(world) as thread:
        late, soon = ended_job(world, "http://a.slow.example/"), ended_job(world, quick.url)
        thread.start()
        assert wait_for(lambda: delivery(world, soon).status == "delivered")
        assert delivery(world, late).error is None and thread.is_alive()
        slow_names.free.set()
    assert "gaierror" in (delivery(world, late).error or "")


def test_names_whose_look_up_never_ends_are_no_more_than_a_number(
    world: World, monkeypatch: pytest.MonkeyPatch, slow_names: SlowNames
) -> None:
    monkeypatch.setattr(outbound, "_SECONDS", 0.5)
    monkeypatch.setattr(outbound, "_LOOK_UPS", AbandonableCalls("test", 2))
    ids = [ended_job(world, f"http://{name}.slow.example/") for name in "abc"]
    deliver_due(near(world))
    errors = sorted((delivery(world, id).error or "").partition(":")[0] for id in ids)
    assert errors == ["TimeoutError", "TimeoutError", "TooMany"]


@contextmanager
def delivering(world: World) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=deliver_due, args=(near(world),))
    yield thread
    thread.join(60)
    assert not thread.is_alive()
