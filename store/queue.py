"""The sending side of the queue. A message is a task's name and one id; the database is the truth."""

from __future__ import annotations

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import ChannelError

QUANTIZE = "zsq.quantize"
INSPECT_CHECKPOINT = "zsq.inspect_checkpoint"
INSPECT_DATASET = "zsq.inspect_dataset"
COLLECT = "zsq.collect"

ANY_QUEUE = "zsq.any"
CPU_QUEUE = "zsq.cpu"
GPU_QUEUE = "zsq.gpu"
CONTROL_QUEUE = "zsq.control"

# By a job's `device`. Workers of both kinds hear of those that may run anywhere.
DEVICE_QUEUES = {"any": ANY_QUEUE, "cpu": CPU_QUEUE, "gpu": GPU_QUEUE}
QUEUES = (*DEVICE_QUEUES.values(), CONTROL_QUEUE)

# A job's own device comes before the route of its task.
ROUTES = {
    QUANTIZE: ANY_QUEUE,
    INSPECT_CHECKPOINT: CONTROL_QUEUE,
    INSPECT_DATASET: CONTROL_QUEUE,
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

    def quantize(self, job_id: str, device: str = "any") -> None:
        """Wakes a worker that serves `device`. It takes the job whose turn it is, not always this one."""
        self._send(QUANTIZE, job_id, DEVICE_QUEUES[device])

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
            return {name: _depth(connection, name) for name in QUEUES}

    def close(self) -> None:
        self._app.close()

    def _send(self, task: str, id: str, queue: str | None = None) -> None:
        self._app.send_task(task, args=[id], queue=queue or ROUTES[task])


def _depth(connection: Connection, queue: str) -> int:
    with connection.channel() as channel:
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except ChannelError:  # nobody has sent or taken anything yet
            return 0
