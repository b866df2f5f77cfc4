"""What was approved is what is done, whatever has moved in the registry meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from flow_bench import FlowBench
from prefect.logging import disable_run_logger
from prefect_server import PrefectServer
from pydantic import ValidationError
from workspace import make_bare_workspace

from fer_pipeline.errors import FlowError
from flows import promotion as module
from flows.promotion import Approval, _question, _require_unmoved, _version_to_ask_for
from flows.session import Session

STATUS: dict[str, Any] = {
    "model_name": "fer-fusion",
    "champion": {"version": "3", "run_id": "c" * 32},
    "previous": {"version": "2", "run_id": "d" * 32},
    "challenger": {
        "version": "5",
        "run_id": "e" * 32,
        "accuracy": 0.60881,
        "gain": 0.0192,
        "gain_ci95_low": 0.0092,
        "gain_ci95_high": 0.0295,
        "mcnemar_p": 0.0002,
        "recipe": "cpu",
    },
    "decision": {"promote": True, "reason": "better on the same images"},
}


@pytest.mark.parametrize(
    ("action", "version", "asked"),
    [("promote", None, 5), ("promote", 4, 4), ("rollback", None, 2), ("rollback", 4, 2)],
)
def test_what_becomes_champion_is_asked_for_by_number(
    action: str, version: int | None, asked: int
) -> None:
    assert _version_to_ask_for(action, version, STATUS) == asked


@pytest.mark.parametrize(("action", "alias"), [("promote", "challenger"), ("rollback", "previous")])
def test_nobody_is_asked_about_a_version_that_is_none(action: str, alias: str) -> None:
    with pytest.raises(FlowError, match=f"no {alias} to {action}: name a version"):
        _version_to_ask_for(action, None, STATUS | {alias: None})


def test_the_form_says_what_is_decided_with_the_gain_and_links(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://somebody:secret@mlflow.example.org/")

    lines = _question("promote", 5, STATUS).splitlines()

    page = "https://mlflow.example.org/#"
    assert lines[0] == (
        f"**promote 5?** [version 5]({page}/models/fer-fusion/versions/5) becomes champion of "
        f"`fer-fusion`. "
    )
    assert lines[2] == "The policy says yes: better on the same images"
    assert lines[-3:] == [
        f"| champion | 3 | – | – | – | [cccccccc]({page}/runs/{'c' * 32}) |",
        "| challenger | 5 | 60.88% | +1.92 points, 95 % interval +0.92 to +2.95, McNemar p 0.0002 "
        f"| cpu | [eeeeeeee]({page}/runs/{'e' * 32}) |",
        f"| previous | 2 | – | – | – | [dddddddd]({page}/runs/{'d' * 32}) |",
    ]


def test_a_form_that_was_sent_as_it_is_decides_nothing() -> None:
    for answer in ({}, {"your_name": "Ada"}, {"decision": "approve", "your_name": " "}):
        with pytest.raises(ValidationError):
            Approval.model_validate(answer)


@pytest.mark.parametrize("moved", ["champion", "previous"])
def test_a_rollback_that_was_approved_for_another_champion_is_refused(
    moved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = dict(STATUS)
    monkeypatch.setattr(module, "_status", lambda _: now)
    with disable_run_logger():
        here = Session(tmp_path, 0)
    _require_unmoved(here, STATUS)

    now[moved] = {"version": "4"}

    with pytest.raises(FlowError, match="has moved since this was approved: ask again"):
        _require_unmoved(here, STATUS)


@pytest.mark.slow
def test_a_question_without_an_answer_in_time_moves_nothing(
    root: Path, tmp_path: Path, server: PrefectServer, empty_database: Path
) -> None:
    bench = FlowBench(make_bare_workspace(root, tmp_path), server)
    shutil.copy(empty_database, tmp_path)

    state = bench.run_here("promotion", version=2, require_approval=True, approval_timeout_s=1)

    assert state.is_failed()
    # The server may be the first to see it, and has words of its own.
    assert str(state.message).endswith((": nothing was moved", "and never resumed."))
