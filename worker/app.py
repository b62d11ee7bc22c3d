"""The Celery application.

    python -m worker cpu         computes, one job at a time
    python -m worker gpu         the same, on a GPU of its own
    python -m worker control     inspects and sweeps; carries the schedule

The pool is `threads`: children of `prefork` are daemonic and may not start the processes that jobs
run in. Time limits and cancels are the runner's, since Celery cannot stop a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery, bootsteps, signals
from celery.beat import EmbeddedService, Scheduler
from kombu.entity import Exchange, Queue

from store import tracing
from store.queue import COLLECT, CONTROL_QUEUE, DEVICE_QUEUES, QUEUES, ROUTES
from store.settings import store_settings
from worker import forkserver, jobs, metrics
from worker.services import services
from worker.settings import worker_settings
from worker.sweep import Reminders, sweep
from worker.timer import Timer
from worker.webhooks import deliver_due

_settings = worker_settings()
_broker_url = store_settings().broker_url

app = Celery("zsq", broker=_broker_url, include=["worker.tasks"])
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    task_ignore_result=True,
    # A message is gone only when its task has ended, and none is taken ahead of its turn.
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_pool="threads",
    worker_concurrency=1,
    # With an exchange and key each: by default all queues would hang on the default queue's.
    task_queues=[Queue(name, Exchange(name), routing_key=name) for name in QUEUES],
    task_default_queue=CONTROL_QUEUE,
    task_create_missing_queues=False,
    task_routes={task: {"queue": queue} for task, queue in ROUTES.items()},
    beat_schedule={
        "collect": {
            "task": COLLECT,
            "schedule": _settings.collect_seconds,
            # Once at the start: a worker may never live as long as the interval.
            "last_run_at": datetime.now(UTC) - timedelta(seconds=_settings.collect_seconds),
            # What could not run in time would only be repeated.
            "options": {"expires": max(1.0, _settings.collect_seconds)},
        },
    },
    # A broker that is away is waited for, at start and later, for as long as it takes.
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
)
if _broker_url.startswith(("redis", "valkey", "sentinel")):
    app.conf.broker_transport_options = {
        # Redis delivers a message again when it is not acknowledged in time, an hour by default:
        # longer than the longest job. One that comes twice all the same, since a worker may run many
        # jobs for one message, only wakes somebody.
        "visibility_timeout": int(_settings.job_seconds) + 3600,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
    }


def messages_waiting(queue: str) -> int:
    """How many messages no worker has taken yet."""
    # A broker that accepts and then is silent must not hold up who asks.
    options = {"socket_timeout": 5.0, "socket_connect_timeout": 5.0}
    with app.connection_for_read(transport_options=options) as connection, connection.channel() as channel:
        return int(app.amqp.queues[queue](channel).queue_declare().message_count)


def devices_served() -> list[str]:
    """`any`, `cpu`, `gpu`: the jobs whose messages this worker hears of are those that it takes."""
    consumed = app.amqp.queues.consume_from
    return [device for device, queue in DEVICE_QUEUES.items() if queue in consumed]


class ThreadedBeat(bootsteps.StartStopStep):  # type: ignore[misc]
    """The schedule, in every worker that serves the control queue.

    Celery's own `--beat` forks a process, which a killed worker would leave behind; a thread ends
    with its worker. What it sends does no harm twice, so several control workers may carry it.
    """

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        self.enabled = CONTROL_QUEUE in app.amqp.queues.consume_from
        super().__init__(worker, **kwargs)

    def create(self, worker: Any) -> Any:
        return EmbeddedService(worker.app, thread=True, scheduler_cls=Scheduler)

    def stop(self, worker: Any) -> None:
        # Not its own `stop`, which waits: while the broker is away, the thread only looks for that.
        self.obj.service.stop(wait=False)


class Repeated(bootsteps.StartStopStep):  # type: ignore[misc]
    """What every worker that serves the control queue does again and again; it does no harm twice.

    Not a task: neither long tasks nor a broker that is away may hold it up, nor may it hold up tasks.
    """

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        self.enabled = CONTROL_QUEUE in app.amqp.queues.consume_from
        super().__init__(worker, **kwargs)

    def create(self, worker: Any) -> Timer:
        action = self.action()

        def once() -> None:
            with tracing.untraced():
                action()

        return Timer(self.alias, _settings.sweep_seconds, once)

    def action(self) -> Callable[[], None]:
        raise NotImplementedError


class ThreadedSweep(Repeated):
    """Repairs what waits behind tasks and what the broker has lost."""

    label = "sweep"

    def action(self) -> Callable[[], None]:
        reminders = Reminders(_settings.inspection_seconds)
        return lambda: sweep(services(), messages_waiting, reminders)


class ThreadedDelivery(Repeated):
    """Webhooks: a receiver that never answers takes nobody's turn."""

    label = "delivery of webhooks"

    def action(self) -> Callable[[], None]:
        return lambda: deliver_due(services())


app.steps["worker"].add(ThreadedBeat)
app.steps["worker"].add(ThreadedSweep)
app.steps["worker"].add(ThreadedDelivery)


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _leave_logging_alone(**kwargs: Any) -> None:
    """Celery does so as soon as anyone hears this signal; `worker.__main__` has set it up."""


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _prepare(**kwargs: Any) -> None:
    tracing.start("zsq-worker")
    if _settings.metrics_port is not None:
        metrics.serve(_settings.metrics_host, _settings.metrics_port)
    forkserver.ensure_running()
    threading.Thread(target=jobs.clean_up, args=(services(),), name="clean up", daemon=True).start()


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _hand_back(**kwargs: Any) -> None:
    services().stopping.set()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _end(**kwargs: Any) -> None:
    tracing.stop()
