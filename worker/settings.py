"""The worker's settings: device, limits, how patient it is. Environment prefix `ZSQ_`."""

from __future__ import annotations

from functools import cache
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# Longer than a century would be before the year 1.
Days = Annotated[float, Field(gt=0, le=36500)]


class WorkerSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ZSQ_", env_file=".env", extra="ignore")

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """Which GPU a `gpu` worker computes on: `auto` and `cuda` take a free one, `cuda:1` that one."""

    torch_threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of a job; torch's own choice when absent."""

    max_attempts: Annotated[int, Field(ge=1)] = 3
    """How often a job or an inspection is started before a crash or a lost worker fails it."""

    retry_seconds: Seconds = 5.0
    """How long a job waits after a failure that may pass; twice as long after each further one."""

    retry_max_seconds: Seconds = 300.0
    """The longest of these waits."""

    owner_running_jobs: Annotated[int, Field(ge=1)] | None = None
    """How many jobs of one owner may run at once; as many as there are workers when absent."""

    heartbeat_seconds: Seconds = 1.0
    """How often progress is written and the lease renewed; well below `ZSQ_LEASE_SECONDS`."""

    cancel_grace_seconds: Seconds = 5.0
    """How long a canceled or overdue job may take to stop by itself before it is terminated."""

    shutdown_grace_seconds: Seconds = 20.0
    """How long a job may take to save what it has, and to publish it, when its worker is told to stop."""

    job_seconds: Seconds = 24 * 3600.0
    """The longest that any job's process may run in all its attempts, whatever its `limits.seconds` says."""

    inspection_seconds: Seconds = 300.0
    """The longest that reading an uploaded file may take."""

    fetch_seconds: Seconds = 600.0
    """The longest that a job's inputs, or an upload to be read, may take to come from the blob store; and its
    results, or a state that it keeps, to go there."""

    child_memory_gib: Annotated[float, Field(ge=8)] = 16.0
    """Address space of a child on the CPU, in GiB; torch does not load below about 2. None on GPUs."""

    child_file_gib: Annotated[float, Field(gt=0)] = 16.0
    """The largest file that a child may write, in GiB."""

    sweep_seconds: Seconds = 5.0
    """How often lost messages and lost workers are looked for."""

    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Where Prometheus scrapes this worker, or the first free port of the 15 after it; 0 takes any."""

    metrics_host: str = "127.0.0.1"
    """The address to listen on for that."""

    collect_seconds: Seconds = 3600.0
    """How often unused blobs and rows that have been kept for long enough are deleted."""

    collect_grace_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 3600.0
    """How long a blob that nobody names is left alone: its writer may be about to name it."""

    keep_jobs_days: Days | None = None
    """How long ended jobs are kept, with reports, artifacts and events; for ever when absent."""

    keep_uploads_days: Days | None = None
    """How long checkpoints and datasets are kept that no job uses and nobody sends; for ever when absent."""

    keep_events_days: Days | None = None
    """How long the events of ended jobs are kept; as long as the jobs when absent."""


@cache
def worker_settings() -> WorkerSettings:
    return WorkerSettings()
