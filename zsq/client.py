"""The SDK: one object, one method a call of the API.

with Client() as client:
    checkpoint = client.upload_checkpoint("resnet20.pt", "cifar/resnet20")
    job = client.wait(client.submit(checkpoint.id, bits="w4a4", method="zaq").id)
    client.download(job.id, "model.onnx", "model.onnx")
"""

from __future__ import annotations

import io
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx

from zsq.download import OnBytes, download
from zsq.errors import JobNotSucceeded
from zsq.events import follow
from zsq.models import Artifact, BegunUpload, Checkpoint, Dataset, Job, JobEvent
from zsq.resumable import give_up, upload
from zsq.transport import Transport, retry_after

DEFAULT_SERVER = "http://127.0.0.1:8000"
# Between two looks at a job: quick at first, since small jobs end soon.
FIRST_POLL, LONGEST_POLL = 0.2, 5.0
# What takes longer than a moment to send is worth going on with.
RESUMABLE_BYTES = 64 << 20
# Seconds; a server that is restarted is back by then.
PATIENCE = 60.0


class Client:
    """Talks to one server; `base_url` defaults to `ZSQ_SERVER_URL`, else this machine's port 8000.

    `api_key` defaults to `ZSQ_API_KEY`; servers on loopback need none by default.

    Every call raises `zsq.errors.ApiError` when the server refuses, `ConnectionLost` when it does not
    answer. `patience`: for how many seconds in a row whatever only reads, as `wait`, `events`, `report` and
    `download` do, and resumable uploads put up with no answer.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        patience: float = PATIENCE,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._transport = Transport(
            base_url or os.environ.get("ZSQ_SERVER_URL") or DEFAULT_SERVER,
            api_key=(api_key or os.environ.get("ZSQ_API_KEY", "")).strip(),
            transport=transport,
        )
        self.base_url = self._transport.base_url
        self.patience = patience

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    # --- checkpoints and datasets ------------------------------------------------------------

    def upload_checkpoint(
        self,
        file: str | Path,
        architecture: str,
        *,
        name: str | None = None,
        num_classes: int | None = None,
        input_shape: Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: Sequence[str] | None = None,
        resumable: bool | None = None,
        on_bytes: OnBytes | None = None,
    ) -> Checkpoint:
        """Uploads a state dict (`.pt`, `.pth`, `.safetensors`). What is left out the server finds itself.

        `input_shape` is (C, H, W); `mean` and `std` are of pixels scaled to [0, 1]; `classes` are the
        names of the classes in the order of the network's outputs, and go into the quantized file. The
        same bytes and fields again give the same checkpoint.

        A `resumable` upload goes on after lost connections, for up to `patience` seconds without
        progress; None means for files from `RESUMABLE_BYTES` on.
        """
        fields = {
            "architecture": architecture,
            "name": name,
            "num_classes": num_classes,
            "input_shape": _commas(input_shape),
            "mean": _commas(mean),
            "std": _commas(std),
            "classes": _json(classes),
        }
        return Checkpoint.from_json(self._upload("checkpoint", Path(file), fields, resumable, on_bytes))

    def upload_dataset(
        self,
        file: str | Path,
        *,
        name: str | None = None,
        classes: Sequence[str] | None = None,
        resumable: bool | None = None,
        on_bytes: OnBytes | None = None,
    ) -> Dataset:
        """Uploads labelled images: `.npz` (`x` uint8 NHWC, `y` int), or an archive of one folder a class.

        `resumable` as for a checkpoint.
        """
        fields = {"name": name, "classes": _json(classes)}
        return Dataset.from_json(self._upload("dataset", Path(file), fields, resumable, on_bytes))

    def checkpoint(self, checkpoint_id: str) -> Checkpoint:
        return Checkpoint.from_json(self._get(f"/v1/checkpoints/{checkpoint_id}"))

    def dataset(self, dataset_id: str) -> Dataset:
        return Dataset.from_json(self._get(f"/v1/datasets/{dataset_id}"))

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Newest first, page by page."""
        return map(Checkpoint.from_json, self._pages("/v1/checkpoints", {}))

    def datasets(self) -> Iterator[Dataset]:
        """Newest first, page by page."""
        return map(Dataset.from_json, self._pages("/v1/datasets", {}))

    def delete_checkpoint(self, checkpoint_id: str) -> None:
        self._transport.call("DELETE", f"/v1/checkpoints/{checkpoint_id}")

    def delete_dataset(self, dataset_id: str) -> None:
        self._transport.call("DELETE", f"/v1/datasets/{dataset_id}")

    def begun_uploads(self) -> Iterator[BegunUpload]:
        """Resumable uploads that are neither ended nor expired, newest first, page by page.

        They count against the owner's limits. One that breaks off here is given up where the server can be
        told so; others are left.
        """
        return map(BegunUpload.from_json, self._pages("/v1/uploads", {}))

    def delete_upload(self, upload_id: str) -> None:
        """Gives up a resumable upload. The checkpoint or dataset that it has become stays."""
        give_up(self._transport, f"/v1/uploads/{upload_id}")

    # --- jobs --------------------------------------------------------------------------------

    def submit(
        self,
        checkpoint_id: str,
        *,
        bits: str | Mapping[str, Any],
        method: str | Mapping[str, Any] = "zaq",
        profile: str | None = None,
        dataset_id: str | None = None,
        seed: int = 0,
        limit_seconds: float | None = None,
        device: str | None = None,
        labels: Mapping[str, str] | None = None,
        reuse: bool = False,
        idempotency_key: str | None = None,
        webhook: str | None = None,
    ) -> Job:
        """Queues a job. `bits` like `"w4a8"` or an object; `method` a name or an object with its options.

        `profile` says for whom the file is written: `packed` (the default), `portable`, `tensorrt` or `qdq`;
        `device` where the job may run: `any` (the default), `cpu` or `gpu`; `webhook` is a URL that is
        told of the job's end.
        With `reuse` it may be an earlier job of yours that computes the same, or has; without,
        `Job.duplicate_of` names one. Losing the server for a moment is waited out: however often the request
        is sent, its key (one of its own, unless `idempotency_key` is given) makes one job.
        """
        body: dict[str, Any] = {"checkpoint_id": checkpoint_id, "bits": bits, "method": method, "seed": seed}
        if profile is not None:
            body["export"] = {"profile": profile}
        if dataset_id is not None:
            body["evaluation"] = {"dataset_id": dataset_id}
        if limit_seconds is not None:
            body["limits"] = {"seconds": limit_seconds}
        if device is not None:
            body["device"] = device
        if labels:
            body["labels"] = dict(labels)
        if reuse:
            body["reuse"] = True
        if webhook is not None:
            body["webhook"] = {"url": webhook}
        headers = {"idempotency-key": idempotency_key or str(uuid.uuid4())}
        response = self._transport.call("POST", "/v1/jobs", json=body, headers=headers, patience=5.0)
        return Job.from_json(response.json())

    def webhook_secret(self, *, renewed: bool = False) -> str:
        """What webhooks are signed with, as libraries of standardwebhooks.com take it."""
        path = "/v1/webhooks/secret"
        found = self._transport.call("POST", path).json() if renewed else self._get(path)
        return str(found["secret"])

    def job(self, job_id: str) -> Job:
        return Job.from_json(self._get(f"/v1/jobs/{job_id}"))

    def jobs(self, **filters: str | None) -> Iterator[Job]:
        """Newest first, page by page. Filters: `status`, `checkpoint_id`, `method`."""
        return map(Job.from_json, self._pages("/v1/jobs", filters))

    def wait(
        self, job_id: str, *, on_change: Callable[[Job], None] | None = None, timeout: float | None = None
    ) -> Job:
        """Looks at the job until it has ended, and returns it as it then is, succeeded or not.

        `on_change` sees every look. Losing the server for up to `patience` seconds is waited out;
        `TimeoutError` after `timeout` seconds. Interrupting the wait leaves the job running.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        delay = FIRST_POLL
        while True:
            response = self._transport.call("GET", f"/v1/jobs/{job_id}", patience=self.patience)
            job = Job.from_json(response.json())
            if on_change:
                on_change(job)
            if job.ended:
                return job
            left = LONGEST_POLL if give_up is None else give_up - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{job_id} has not ended within {timeout:g} seconds.")
            self._transport.sleep(min(retry_after(response) or delay, LONGEST_POLL, left))
            delay = min(delay * 1.5, LONGEST_POLL)

    def events(self, job_id: str, *, after: str | None = None) -> Iterator[JobEvent]:
        """What happens to the job, as it happens, from the beginning or behind the event with the id `after`.

        Every `status` and `phase` once and in order, `progress` about once a second; it ends with the job.
        Lost connections and a server that is away for up to `patience` seconds are waited out.
        """
        return follow(self._transport, job_id, after=after, patience=self.patience)

    def result(self, job_id: str, *, on_change: Callable[[Job], None] | None = None) -> dict[str, Any]:
        """Waits for the job and returns its report. Raises `JobNotSucceeded`."""
        job = self.wait(job_id, on_change=on_change)
        if job.status != "succeeded":
            raise JobNotSucceeded(job)
        return self.report(job_id)

    def cancel(self, job_id: str) -> Job:
        """Asks for the job to stop; twice is no error. `ApiError` `already_ended` when it has ended."""
        response = self._transport.call("POST", f"/v1/jobs/{job_id}/cancel", patience=5.0)
        return Job.from_json(response.json())

    def delete_job(self, job_id: str) -> None:
        """Deletes an ended job with its report and files. `ApiError` `job_unfinished` until it has ended."""
        self._transport.call("DELETE", f"/v1/jobs/{job_id}")

    def report(self, job_id: str) -> dict[str, Any]:
        return self._get(f"/v1/jobs/{job_id}/report")

    def artifacts(self, job_id: str) -> list[Artifact]:
        found = self._get(f"/v1/jobs/{job_id}/artifacts")
        return [Artifact.from_json(item) for item in found["items"]]

    def download(
        self, job_id: str, name: str, target: str | Path, *, on_bytes: OnBytes | None = None
    ) -> Path:
        """Fetches one artifact into the file `target`, or under its own name into the folder `target`.

        Resumes where an earlier call stopped, checks the sum, and puts the file in place whole.
        """
        path = Path(target)
        if path.is_dir():
            path = path / name
        download(
            self._transport,
            f"/v1/jobs/{job_id}/artifacts/{quote(name, safe='')}",
            path,
            patience=self.patience,
            on_bytes=on_bytes,
        )
        return path

    # --- what there is -----------------------------------------------------------------------

    def methods(self) -> list[dict[str, Any]]:
        return list(self._pages("/v1/methods", {}))

    def architectures(self, contains: str | None = None) -> list[dict[str, Any]]:
        """There are more than a thousand; `contains` leaves those with it in their names."""
        return list(self._pages("/v1/architectures", {"contains": contains or None}))

    def limits(self) -> dict[str, Any]:
        """Who the key is, and what that owner may take and has taken; null where nothing limits it."""
        return self._get("/v1/limits")

    # --- the calls underneath ----------------------------------------------------------------

    def _get(self, path: str) -> dict[str, Any]:
        body: dict[str, Any] = self._transport.call("GET", path, patience=self.patience).json()
        return body

    def _pages(self, path: str, filters: Mapping[str, str | None]) -> Iterator[dict[str, Any]]:
        query = {name: value for name, value in filters.items() if value is not None}
        while True:
            page = self._transport.call("GET", path, params=query, patience=self.patience).json()
            yield from page["items"]
            if not page.get("next"):
                return
            query["after"] = page["next"]

    def _upload(
        self,
        kind: str,
        file: Path,
        fields: Mapping[str, Any],
        resumable: bool | None,
        on_bytes: OnBytes | None,
    ) -> dict[str, Any]:
        form = {name: str(value) for name, value in fields.items() if value is not None}
        if resumable is None:
            resumable = file.stat().st_size >= RESUMABLE_BYTES
        if resumable:
            return upload(self._transport, kind, file, form, patience=self.patience, on_bytes=on_bytes)
        with _CountedFile(file, on_bytes) as body:
            files = {"file": (file.name, body, "application/octet-stream")}
            response = self._transport.call("POST", f"/v1/{kind}s", data=form, files=files)
        answer: dict[str, Any] = response.json()
        return answer


class _CountedFile(io.FileIO):
    """A file that tells how much of it has been read; httpx reads it piece by piece."""

    def __init__(self, path: Path, on_bytes: OnBytes | None) -> None:
        super().__init__(path)
        self._on_bytes = on_bytes
        self._total = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(-1 if size is None else size) or b""
        if self._on_bytes:
            self._on_bytes(self.tell(), self._total)
        return data


def _json(values: Sequence[str] | None) -> str | None:
    """Names may hold commas."""
    return None if values is None else json.dumps(list(values), ensure_ascii=False)


def _commas(values: Sequence[Any] | None) -> str | None:
    return None if values is None else ",".join(str(value) for value in values)
