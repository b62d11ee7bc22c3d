"""The sending side of the queue. A message is a task's name and one id; the database is the truth."""

from __future__ import annotations

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import ChannelError

QUANTIZE = "zsq.quantize"
INSPECT_CHECKPOINT = "zsq.inspect_checkpoint"
INSPECT_DATASET = "zsq.inspect_dataset"
SWEEP = "zsq.sweep"
COLLECT = "zsq.collect"

DEVICE_QUEUE = "zsq.device"
CONTROL_QUEUE = "zsq.control"

ROUTES = {
    QUANTIZE: DEVICE_QUEUE,
    INSPECT_CHECKPOINT: CONTROL_QUEUE,
    INSPECT_DATASET: CONTROL_QUEUE,
    SWEEP: CONTROL_QUEUE,
    COLLECT: CONTROL_QUEUE,
}

_CONNECT_SECONDS = 2.0


class Queue:
    """Sends by task name, so the sender needs none of the worker's code.

    Every call gives up within seconds when the broker is away, with kombu's OperationalError or an
    OSError. Callers that have committed a row log that and go on: the sweep sends it again.
    """

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("zsq", broker=broker_url, set_as_current=False)
        self._app.conf.update(
            task_ignore_result=True,
            broker_connection_timeout=_CONNECT_SECONDS,
            broker_transport_options={
                "socket_connect_timeout": _CONNECT_SECONDS,
                "socket_timeout": _CONNECT_SECONDS,
                # Redis only: without this, kombu tries to connect for ever.
                "max_retries": 1,
            },
            task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0.2},
        )

    def quantize(self, job_id: str) -> None:
        self._send(QUANTIZE, job_id)

    def inspect_checkpoint(self, id: str) -> None:
        self._send(INSPECT_CHECKPOINT, id)

    def inspect_dataset(self, id: str) -> None:
        self._send(INSPECT_DATASET, id)

    def ping(self) -> None:
        """Raises when the broker cannot be reached within seconds."""
        with self._app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=_CONNECT_SECONDS)

    def depths(self) -> dict[str, int]:
        """How many messages no worker has taken yet, by queue. Raises as `ping` does."""
        with self._app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=_CONNECT_SECONDS)
            return {name: _depth(connection, name) for name in sorted(set(ROUTES.values()))}

    def close(self) -> None:
        self._app.close()

    def _send(self, task: str, id: str) -> None:
        self._app.send_task(task, args=[id], queue=ROUTES[task])


def _depth(connection: Connection, queue: str) -> int:
    with connection.channel() as channel:
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except ChannelError:  # nobody has sent or taken anything yet
            return 0
