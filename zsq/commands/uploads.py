"""`zsq checkpoints` and `zsq datasets`: upload, list, show, delete."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from zsq.client import DEFAULT_SERVER, PATIENCE
from zsq.commands.common import (
    ApiKey,
    Json,
    Server,
    connect,
    failure_text,
    new_group,
    print_json,
    print_listing,
)
from zsq.models import Upload
from zsq.report_view import size
from zsq.terminal import console

checkpoints = new_group("Uploaded networks.")
datasets = new_group("Uploaded labelled images, which only measure accuracy.")

Limit = Annotated[int, typer.Option(help="At most so many, newest first.", min=1)]
FileArgument = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)]
Name = Annotated[str | None, typer.Option(help="A name for people.")]
Architecture = Annotated[
    str | None, typer.Option("--architecture", "-a", help="For example cifar/resnet20 (zsq architectures).")
]
Numbers = Annotated[
    str | None, typer.Option(help="Comma list, of pixels scaled to 0…1; one for each channel.")
]
InputShape = Annotated[str | None, typer.Option(help="C,H,W; else the architecture's own.")]
Classes = Annotated[int | None, typer.Option(help="Else found in the file.")]
ClassNames = Annotated[
    str | None,
    typer.Option(help="Class names in the order of their numbers: a comma list, or @FILE with one a line."),
]

Resumable = Annotated[
    bool | None,
    typer.Option(
        "--resumable/--plain",
        help="Go on after lost connections, or send it in one go; else large files are resumable.",
    ),
]


def integers(text: str | None, option: str) -> list[int] | None:
    """`"3,32,32"` -> `[3, 32, 32]`."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no comma list of integers", param_hint=option) from error


def numbers(text: str | None, option: str) -> list[float] | None:
    """`"0.5,0.5,0.5"` -> `[0.5, 0.5, 0.5]`."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no comma list of numbers", param_hint=option) from error


def class_names(text: str | None) -> list[str] | None:
    """`"cat,dog"` -> `["cat", "dog"]`; `"@labels.txt"` -> the lines of that file, for names with commas."""
    if text is None or not text.startswith("@"):
        return None if text is None else text.split(",")
    try:
        return Path(text[1:]).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"cannot be read: {error}", param_hint="--classes") from error


@checkpoints.command("upload")
def upload_checkpoint(
    file: FileArgument,
    architecture: Annotated[str, typer.Option("--architecture", "-a", help="zsq architectures lists them.")],
    name: Name = None,
    num_classes: Classes = None,
    input_shape: InputShape = None,
    mean: Numbers = None,
    std: Numbers = None,
    classes: ClassNames = None,
    resumable: Resumable = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Upload a state dict (.pt, .pth, .safetensors) and print its id."""
    with connect(server, api_key, patience=PATIENCE) as client:
        found = client.upload_checkpoint(
            file,
            architecture,
            name=name,
            num_classes=num_classes,
            input_shape=integers(input_shape, "--input-shape"),
            mean=numbers(mean, "--mean"),
            std=numbers(std, "--std"),
            classes=class_names(classes),
            resumable=resumable,
        )
    console().print(found.id)


@datasets.command("upload")
def upload_dataset(
    file: FileArgument,
    name: Name = None,
    classes: ClassNames = None,
    resumable: Resumable = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Upload labelled images (.npz with x and y, or a zip or tar of folders) and print the id."""
    with connect(server, api_key, patience=PATIENCE) as client:
        found = client.upload_dataset(file, name=name, classes=class_names(classes), resumable=resumable)
    console().print(found.id)


@checkpoints.command("list")
def list_checkpoints(
    limit: Limit = 20, as_json: Json = False, server: Server = DEFAULT_SERVER, api_key: ApiKey = None
) -> None:
    """List uploaded networks."""
    with connect(server, api_key) as client:
        _print(list(islice(client.checkpoints(), limit)), as_json)


@datasets.command("list")
def list_datasets(
    limit: Limit = 20, as_json: Json = False, server: Server = DEFAULT_SERVER, api_key: ApiKey = None
) -> None:
    """List uploaded evaluation sets."""
    with connect(server, api_key) as client:
        _print(list(islice(client.datasets(), limit)), as_json)


@checkpoints.command("show")
def show_checkpoint(checkpoint_id: str, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Show one, with what was found in it."""
    with connect(server, api_key) as client:
        print_json(dict(client.checkpoint(checkpoint_id).raw))


@datasets.command("show")
def show_dataset(dataset_id: str, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Show one, with what was found in it."""
    with connect(server, api_key) as client:
        print_json(dict(client.dataset(dataset_id).raw))


@checkpoints.command("delete")
def delete_checkpoint(checkpoint_id: str, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Delete one; refused while an unfinished job uses it."""
    with connect(server, api_key) as client:
        client.delete_checkpoint(checkpoint_id)


@datasets.command("delete")
def delete_dataset(dataset_id: str, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Delete one; refused while an unfinished job uses it."""
    with connect(server, api_key) as client:
        client.delete_dataset(dataset_id)


def _print(found: list[Upload], as_json: bool) -> None:
    columns: dict[str, Callable[[Upload], str]] = {
        "id": lambda item: item.id,
        "state": lambda item: item.state,
        "architecture": lambda item: item.architecture or "",
        "size": lambda item: size(item.bytes),
        "name": lambda item: item.name or "",
        "error": lambda item: failure_text(item.error),
    }
    print_listing(found, as_json, columns, "None yet.")
