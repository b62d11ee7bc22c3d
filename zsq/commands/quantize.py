"""`zsq quantize`: a file in, a low-bit ONNX file and its report out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from zsq.client import DEFAULT_SERVER, PATIENCE, Client
from zsq.commands.common import ApiKey, Server, connect
from zsq.commands.jobs import fetch, follow
from zsq.commands.uploads import (
    Architecture,
    Classes,
    ClassNames,
    InputShape,
    Name,
    Numbers,
    Resumable,
    class_names,
    integers,
    numbers,
)
from zsq.report_view import print_report
from zsq.terminal import console


def quantize(
    file: Annotated[
        str, typer.Argument(help="A state dict (.pt, .pth, .safetensors), or a checkpoint's id.")
    ],
    architecture: Architecture = None,
    bits: Annotated[
        str, typer.Option(help="w4a8: 4-bit weights, 8-bit activations; or a JSON object.")
    ] = "w4a4",
    method: Annotated[str, typer.Option(help="zsq methods lists them.")] = "zaq",
    profile: Annotated[
        str | None,
        typer.Option(
            help="For whom the file is: packed (ONNX Runtime, the default), portable (OpenVINO, older ONNX "
            "Runtimes), tensorrt, qdq (other compilers)."
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Labelled images to measure with: a file, or an id.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; else named after the job.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    iterations: Annotated[int | None, typer.Option(help="The method's budget.", min=1)] = None,
    seconds: Annotated[float | None, typer.Option(help="The method's budget, as time.", min=0)] = None,
    preset: Annotated[str | None, typer.Option(help="The method's preset: service or paper.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="A method's option, NAME=VALUE; repeatable.")
    ] = None,
    limit: Annotated[float | None, typer.Option(help="The job fails when it runs longer (seconds).")] = None,
    device: Annotated[
        str | None, typer.Option(help="Where the job may run: any (the default), cpu or gpu.")
    ] = None,
    name: Name = None,
    num_classes: Classes = None,
    input_shape: InputShape = None,
    mean: Numbers = None,
    std: Numbers = None,
    classes: ClassNames = None,
    resumable: Resumable = None,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Take an earlier job that computes the same, if there is one.")
    ] = False,
    webhook: Annotated[str | None, typer.Option(help="A URL to tell of the job's end.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print the job's id and return at once.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Quantize a network without data: upload, wait, download model.onnx and report.json."""
    what = method_json(method, preset, iterations, seconds, option or [])
    with connect(server, api_key, patience=PATIENCE) as client:
        if Path(file).exists() or not file.startswith("ckpt_"):
            if architecture is None:
                raise typer.BadParameter(
                    "which network is this? (zsq architectures)", param_hint="--architecture"
                )
            checkpoint_id = client.upload_checkpoint(
                file,
                architecture,
                name=name,
                num_classes=num_classes,
                input_shape=integers(input_shape, "--input-shape"),
                mean=numbers(mean, "--mean"),
                std=numbers(std, "--std"),
                classes=class_names(classes),
                resumable=resumable,
            ).id
        else:
            checkpoint_id = file
        job = client.submit(
            checkpoint_id,
            bits=_json_or_text(bits) if bits.lstrip().startswith("{") else bits,
            method=what,
            profile=profile,
            dataset_id=_dataset_id(client, dataset, resumable),
            seed=seed,
            limit_seconds=limit,
            device=device,
            reuse=reuse,
            webhook=webhook,
        )
        if detach:
            console().print(job.id)
            return
        console().print(f"{job.id}: {bits}, {method}", markup=False)
        if job.duplicate_of:
            console().print(f"{job.duplicate_of} computes the same (--reuse takes it)", markup=False)
        follow(client, job.id)
        folder = out or Path(job.id)
        fetch(client, job.id, None, folder)
        print_report(console(), client.report(job.id), method)
        console().print(f"Written to {folder}/", markup=False)


def _dataset_id(client: Client, dataset: str | None, resumable: bool | None) -> str | None:
    if dataset is None or (dataset.startswith("data_") and not Path(dataset).exists()):
        return dataset
    return client.upload_dataset(dataset, resumable=resumable).id


def method_json(
    name: str, preset: str | None, iterations: int | None, seconds: float | None, options: list[str]
) -> str | dict[str, Any]:
    """The `method` of a job: its bare name, or an object where anything is asked for."""
    if iterations is not None and seconds is not None:
        raise typer.BadParameter("give --iterations or --seconds, not both", param_hint="--seconds")
    asked: dict[str, Any] = {}
    if preset is not None:
        asked["preset"] = preset
    if iterations is not None:
        asked["budget"] = {"iterations": iterations}
    if seconds is not None:
        asked["budget"] = {"seconds": seconds}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise typer.BadParameter(f"{option!r} is not NAME=VALUE", param_hint="--option")
        asked[key] = _json_or_text(value)
    return {"name": name, **asked} if asked else name


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
