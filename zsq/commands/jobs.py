"""`zsq jobs`: list, show, watch, events, cancel, delete, report, download."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from zsq.client import DEFAULT_SERVER, PATIENCE, Client
from zsq.commands.common import (
    ApiKey,
    Json,
    Server,
    connect,
    failure_text,
    new_group,
    print_json,
    print_listing,
    time_text,
)
from zsq.errors import JobNotSucceeded
from zsq.models import Job
from zsq.report_view import print_report
from zsq.terminal import JobProgress, console

jobs = new_group("Quantization jobs.")


@jobs.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed, canceled.")] = None,
    method: Annotated[str | None, typer.Option(help="For example zaq.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="A checkpoint's id.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.", min=1)] = 20,
    as_json: Json = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """List jobs, newest first."""
    with connect(server, api_key) as client:
        found = list(islice(client.jobs(status=status, method=method, checkpoint_id=checkpoint), limit))
    columns: dict[str, Callable[[Job], str]] = {
        "id": lambda job: job.id,
        "status": lambda job: job.status,
        "done": lambda job: f"{job.progress.fraction:.0%}",
        "method": lambda job: job.method or "",
        "created": lambda job: time_text(job.created_at),
        "error": lambda job: failure_text(job.error),
    }
    print_listing(found, as_json, columns, "No jobs yet.")


@jobs.command("show")
def show(job_id: str, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Show one job as the server sees it."""
    with connect(server, api_key) as client:
        print_json(dict(client.job(job_id).raw))


@jobs.command("watch")
def watch(job_id: str, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Follow a job until it ends; exits 0 only when it succeeded."""
    with connect(server, api_key, patience=PATIENCE) as client:
        job = follow(client, job_id)
        print_report(console(), client.report(job_id), job.method or "")


@jobs.command("events")
def events(
    job_id: str,
    after: Annotated[str | None, typer.Option(help="Only what came behind the event with this id.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Print what happens to a job, as it happens until it ends: one JSON object a line, for programs."""
    with connect(server, api_key, patience=PATIENCE) as client:
        for event in client.events(job_id, after=after):
            typer.echo(json.dumps({"event": event.event, "id": event.id, **event.raw}))


@jobs.command("cancel")
def cancel(job_id: str, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Ask a job to stop."""
    with connect(server, api_key) as client:
        job = client.cancel(job_id)
    console().print(f"{job.id}: {job.status}" + ("" if job.ended else ", stopping"))


@jobs.command("delete")
def delete(job_id: str, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Delete an ended job with its report and files."""
    with connect(server, api_key) as client:
        client.delete_job(job_id)


@jobs.command("report")
def report(
    job_id: str, as_json: Json = False, server: Server = DEFAULT_SERVER, api_key: ApiKey = None
) -> None:
    """Show a job's report."""
    with connect(server, api_key) as client:
        found = client.report(job_id)
        if as_json:
            print_json(found)
        else:
            print_report(console(), found, client.job(job_id).method or "")


@jobs.command("download")
def download(
    job_id: str,
    names: Annotated[
        list[str] | None, typer.Argument(help="For example model.onnx; all when left out.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.", file_okay=False)] = Path(),
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Download a job's files; goes on where an earlier download stopped."""
    with connect(server, api_key, patience=PATIENCE) as client:
        for path in fetch(client, job_id, names or None, out):
            console().print(str(path), markup=False)


def fetch(client: Client, job_id: str, names: list[str] | None, out: Path) -> list[Path]:
    """Downloads the artifacts `names` (None: all there are) into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    chosen = names if names is not None else [artifact.name for artifact in client.artifacts(job_id)]
    return [client.download(job_id, name, out / name) for name in chosen]


def follow(client: Client, job_id: str) -> Job:
    """Shows a job until it ends. Raises `JobNotSucceeded`; on Ctrl-C says how to go on and exits 130."""
    try:
        with JobProgress(console()) as progress:
            job = client.wait(job_id, on_change=progress.show)
    except KeyboardInterrupt:
        at = "" if client.base_url == DEFAULT_SERVER else f" --server {client.base_url}"
        typer.echo(
            f"\nThe job goes on. Watch it:  zsq jobs watch {job_id}{at}\n"
            f"Stop it:                    zsq jobs cancel {job_id}{at}",
            err=True,
        )
        raise typer.Exit(130) from None
    if job.status != "succeeded":
        raise JobNotSucceeded(job)
    return job
