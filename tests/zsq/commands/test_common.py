"""What becomes of an error that a command ends with."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from zsq.commands.common import new_group
from zsq.errors import ClientError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ClientError("No such job."), "No such job."),
        (TimeoutError("job_1 has not ended within 5 seconds."), "job_1 has not ended within 5 seconds."),
        (FileNotFoundError(2, "No such file", "a.pt"), "a.pt: No such file"),
    ],
)
def test_what_is_no_defect_is_a_sentence_and_exit_code_1(error: Exception, said: str) -> None:
    group = new_group("Jobs.")

    @group.command()
    def fail() -> None:
        raise error

    @group.command()
    def other() -> None: ...

    result = CliRunner().invoke(group, ["fail"])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert said in " ".join(result.stderr.split()) and result.stdout == ""


def test_a_defect_keeps_its_trace() -> None:
    group = new_group("Jobs.")

    @group.command()
    def fail() -> None:
        raise OSError("what no file has to do with")

    @group.command()
    def other() -> None: ...

    assert isinstance(CliRunner().invoke(group, ["fail"]).exception, OSError)
