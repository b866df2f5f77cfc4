"""What was approved is what is done, whatever has moved in the registry meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from fer_pipeline.errors import FlowError
from flows import promotion as module
from flows.promotion import _require_unmoved, _version_to_ask_for
from flows.session import Session

STATUS: dict[str, Any] = {
    "champion": {"version": "3"},
    "previous": {"version": "2"},
    "challenger": {"version": "5"},
}


@pytest.mark.parametrize(
    ("action", "version", "asked"),
    [("promote", None, 5), ("promote", 4, 4), ("rollback", None, None)],
)
def test_the_challenger_of_now_is_asked_for_by_number(
    action: str, version: int | None, asked: int | None
) -> None:
    assert _version_to_ask_for(action, version, STATUS) == asked


def test_nobody_is_asked_about_a_challenger_that_is_none() -> None:
    with pytest.raises(FlowError, match="no challenger to promote: name a version"):
        _version_to_ask_for("promote", None, STATUS | {"challenger": None})


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
