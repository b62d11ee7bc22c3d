"""`zsq doctor`: what is wrong with this machine or its settings, and what to do about it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from zsq.client import DEFAULT_SERVER
from zsq.commands.common import Server, print_json
from zsq.doctor import Finding, examine
from zsq.terminal import console

_MARKS = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]", "failure": "[red]failure[/red]"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Check this machine and its settings, and say what to do; exits 1 when something fails."""
    chosen = server != DEFAULT_SERVER or "ZSQ_SERVER_URL" in os.environ
    findings = examine(server, chosen=chosen)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        show(findings)
    if any(finding.level == "failure" for finding in findings):
        raise typer.Exit(1)


def show(findings: list[Finding]) -> None:
    table = Table(box=None, pad_edge=False)
    for header in ("check", "", "found", "what to do"):
        table.add_column(header, overflow="fold")
    for finding in findings:
        table.add_row(
            escape(finding.check), _MARKS[finding.level], escape(finding.detail), escape(finding.advice or "")
        )
    console().print(table)
