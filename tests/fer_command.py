"""The command `fer` called in this process."""

from __future__ import annotations

import pytest

from fer_pipeline.cli.main import main


def run_fer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """Exit status, and what was printed to stdout and stderr."""
    monkeypatch.setattr("sys.argv", ["fer", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err
