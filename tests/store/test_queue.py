from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError

from store.queue import ANY_QUEUE, CONTROL_QUEUE, CPU_QUEUE, GPU_QUEUE, Queue


def messages(broker_url: str, queue: str) -> list[tuple[str, list[Any]]]:
    with redis.Redis.from_url(broker_url) as server:
        raw: Any = server.lrange(queue, 0, -1)
        server.delete(queue)
    parsed = [json.loads(each) for each in raw]
    return [(each["headers"]["task"], json.loads(base64.b64decode(each["body"]))[0]) for each in parsed]


def test_a_message_is_a_task_name_and_an_id(broker_url: str) -> None:
    redis.Redis.from_url(broker_url).flushdb()  # other tests of this process use the same broker
    queue = Queue(broker_url)
    queue.ping()
    queue.quantize("job_1")
    queue.quantize("job_2", "cpu")
    queue.quantize("job_3", "gpu")
    queue.inspect_checkpoint("ckpt_1")
    queue.inspect_dataset("data_1")
    queue.close()
    assert messages(broker_url, ANY_QUEUE) == [("zsq.quantize", ["job_1"])]
    assert messages(broker_url, CPU_QUEUE) == [("zsq.quantize", ["job_2"])]
    assert messages(broker_url, GPU_QUEUE) == [("zsq.quantize", ["job_3"])]
    assert sorted(messages(broker_url, CONTROL_QUEUE)) == [
        ("zsq.inspect_checkpoint", ["ckpt_1"]),
        ("zsq.inspect_dataset", ["data_1"]),
    ]


def test_a_broker_that_is_away_is_an_error_not_a_wait() -> None:
    queue = Queue("redis://127.0.0.1:1/0")
    with pytest.raises(OperationalError):
        queue.ping()
    with pytest.raises(OperationalError):
        queue.quantize("job_1")
