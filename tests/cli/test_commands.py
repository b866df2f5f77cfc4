"""What both command lines say of a value that is none of those allowed."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from fer_pipeline.cli.main import app as fer
from flows.__main__ import app as flows


@pytest.mark.parametrize(
    ("app", "arguments", "said"),
    [
        (fer, ["export", "--format", "tflite"], "'--format': 'tflite' is not one of 'onnx'."),
        (flows, ["promotion", "demote"], "'demote' is not one of 'promote', 'rollback'."),
    ],
)
def test_a_value_that_is_not_allowed_is_told_without_pydantics_words(
    app: typer.Typer, arguments: list[str], said: str
) -> None:
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert said in done.output
    assert "Value error" not in done.output
