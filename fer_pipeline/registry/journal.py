"""The journal of the registry: one MLflow run for each move of the alias `champion`.

The run is written before the first alias moves and says how the aliases were, so that a move that
was killed half-way can be told from one that never began, and can be finished or taken back.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

if TYPE_CHECKING:
    from fer_pipeline.registry.tracking import Tracking

Action = Literal["promote", "rollback"]

MODEL_TAG = "move.model"
NOTHING = "none"
"""Value of a tag that says nothing: MLflow's tags may not be empty."""

_BEFORE = ("champion", "previous", "challenger")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Move:
    """One move of `champion`.

    Attributes:
        action: what was asked for.
        to: the version that becomes champion.
        before: what the aliases pointed to: champion, previous, challenger; empty for nothing.
        by: who or what asked for it.
        reason: why, in their words.
        policy: what the policy said; empty where it was not asked.
        at: when, in UTC.
        host: the machine that moved.
        run_id: the run that records it; empty before `begin_move`.
        status: of that run: FINISHED, or RUNNING while it is under way or was killed, or KILLED
            where it was taken back.
    """

    action: Action
    to: str
    before: tuple[str, str, str]
    by: str
    reason: str
    policy: str
    at: str = field(default_factory=_now)
    host: str = field(default_factory=socket.gethostname)
    run_id: str = ""
    status: str = "RUNNING"

    @property
    def came_from(self) -> str:
        """The champion until then, or empty."""
        return self.before[0]

    def tags(self) -> dict[str, str]:
        """The tags of a version that became champion by this move."""
        return {
            "move.action": self.action,
            "move.to": self.to,
            "move.from": self.came_from or NOTHING,
            "move.by": self.by,
            "move.reason": self.reason,
            "move.policy": self.policy or NOTHING,
            "move.at": self.at,
        }


def begin_move(tracking: Tracking, name: str, move: Move) -> Move:
    """Write down a move that is about to be made; returns it with its run."""
    before = {
        f"move.before.{alias}": old or NOTHING
        for alias, old in zip(_BEFORE, move.before, strict=True)
    }
    named = {
        MLFLOW_RUN_NAME: f"{move.action} {move.to}",
        "fer.stage": move.action,
        MODEL_TAG: name,
        "move.host": move.host,
    }
    # One call makes the run with all its tags: there is no run that says half of it.
    run = tracking.client.create_run(tracking.experiment_id, tags=named | move.tags() | before)
    return replace(move, run_id=str(run.info.run_id))


def end_move(tracking: Tracking, move: Move, *, made: bool) -> None:
    """Close the record of a move that was made, or taken back."""
    tracking.client.set_terminated(move.run_id, "FINISHED" if made else "KILLED")


def read_moves(tracking: Tracking, name: str, *, only_open: bool = False) -> list[Move]:
    """The moves of a registered model, the newest first; whatever experiment they are in."""
    experiments = [one.experiment_id for one in tracking.client.search_experiments()]
    wanted = f"tags.`{MODEL_TAG}` = '{name}'"
    if only_open:
        wanted += " and attributes.status = 'RUNNING'"
    runs = tracking.client.search_runs(experiments, wanted, order_by=["attributes.start_time DESC"])
    return [_read_move(run) for run in runs]


def age_s(move: Move) -> float:
    """Seconds since the move began."""
    return time.time() - datetime.fromisoformat(move.at).timestamp()


def _read_move(run: Run) -> Move:
    tags = run.data.tags
    champion, previous, challenger = (_text(tags, f"move.before.{alias}") for alias in _BEFORE)
    return Move(
        action="rollback" if tags["move.action"] == "rollback" else "promote",
        to=tags["move.to"],
        before=(champion, previous, challenger),
        by=_text(tags, "move.by"),
        reason=_text(tags, "move.reason"),
        policy=_text(tags, "move.policy"),
        at=tags["move.at"],
        host=_text(tags, "move.host"),
        run_id=str(run.info.run_id),
        status=str(run.info.status),
    )


def _text(tags: Mapping[str, str], key: str) -> str:
    text = tags.get(key, NOTHING)
    return "" if text == NOTHING else text
