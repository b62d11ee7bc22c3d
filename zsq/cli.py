"""The command line: `zsq --help`. Each command's work is in `zsq.commands`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from zsq.commands.begun import uploads
from zsq.commands.catalogue import architectures, methods
from zsq.commands.common import Group
from zsq.commands.doctor import doctor
from zsq.commands.jobs import jobs
from zsq.commands.keys import keys
from zsq.commands.limits import limits
from zsq.commands.quantize import quantize
from zsq.commands.up import up
from zsq.commands.uploads import checkpoints, datasets
from zsq.terminal import console

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Zero-shot quantization: a trained network in, a low-bit ONNX file out, no training data.",
)
app.command()(up)
app.command()(quantize)
app.add_typer(jobs, name="jobs")
app.add_typer(checkpoints, name="checkpoints")
app.add_typer(datasets, name="datasets")
app.add_typer(uploads, name="uploads")
app.add_typer(keys, name="keys")
app.command()(limits)
app.command()(methods)
app.command()(architectures)
app.command()(doctor)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.", file_okay=False)] = Path("demo-out"),
    bits: Annotated[str, typer.Option(help="Like w4a4.")] = "w4a4",
    method: Annotated[str, typer.Option(help="Like zaq or minmax.")] = "zaq",
) -> None:
    """Show the whole product once: train, start, upload, quantize, download, report, stop."""
    # Only this command and `up` start processes; the others stay quick to start.
    from zsq.demo import demo as run

    run(console(), out, bits=bits, method=method, cache=Path(os.environ.get("ZSQ_DATA_DIR", ".zsq")) / "demo")
