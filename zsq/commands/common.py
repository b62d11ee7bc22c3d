"""Options that many commands take, and the group that turns errors into messages and exit codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, TypeVar

import typer
from rich.table import Table
from typer.core import TyperGroup

from zsq.client import Client
from zsq.errors import ClientError
from zsq.models import BegunUpload, Failure, Job, Upload
from zsq.terminal import console, print_error

Server = Annotated[
    str,
    typer.Option("--server", envvar="ZSQ_SERVER_URL", help="Where zsq runs."),
]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="ZSQ_API_KEY", help="Where the server asks for one."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the server's own answer, as JSON.")]

Listed = TypeVar("Listed", Job, Upload, BegunUpload)


class Group(TyperGroup):
    """Says what went wrong on standard error and exits with 1: no trace for what is no defect here."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ClientError as error:
            print_error(error)
        except TimeoutError as error:  # an OSError too
            print_error(ClientError(str(error)))
        except OSError as error:
            if error.filename is None:
                raise
            print_error(ClientError(f"{error.filename}: {error.strerror}"))
        raise typer.Exit(1)


def new_group(help_text: str) -> typer.Typer:
    return typer.Typer(help=help_text, no_args_is_help=True, cls=Group)


def print_json(data: Any) -> None:
    console().print_json(data=data)


def print_rows(headers: list[str], rows: list[list[str]], empty: str) -> None:
    out = console()
    if not rows:
        out.print(empty)
        return
    table = Table(box=None, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table, markup=False)


def print_listing(
    found: Sequence[Listed], as_json: bool, columns: Mapping[str, Callable[[Listed], str]], empty: str
) -> None:
    """The server's own answers, or a table of `columns`: header -> what it shows of an item."""
    if as_json:
        print_json([dict(item.raw) for item in found])
        return
    rows = [[show(item) for show in columns.values()] for item in found]
    print_rows(list(columns), rows, empty)


def time_text(time: datetime | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ") if time else ""


def failure_text(error: Failure | None) -> str:
    return f"{error.detail} ({error.code})" if error else ""


def connect(server: str, api_key: str | None, *, patience: float = 0.0) -> Client:
    """Without `patience` for a glance: that no one is there is said at once."""
    return Client(server, api_key=api_key, patience=patience)
