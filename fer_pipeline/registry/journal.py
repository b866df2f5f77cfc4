"""The journal of the registry: one MLflow run for each move of the alias `champion`.

The run is written before the first alias moves and holds how the aliases stood, so that a move
that was killed half-way can be told from one that never was, and be finished or taken back.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

if TYPE_CHECKING:
    from fer_pipeline.registry.tracking import Tracking

Action = Literal["promote", "rollback"]

MODEL_TAG = "move.model"
NOTHING = "none"  # tags may not be empty

_BEFORE = ("champion", "previous", "challenger")


@dataclass(frozen=True)
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
        run_id: the run that records it.
        status: of that run: FINISHED, or RUNNING while it is under way or was killed, or KILLED
            where it was taken back.
    """

    action: Action
    to: str
    before: tuple[str, str, str]
    by: str
    reason: str
    policy: str
    at: str
    host: str
    run_id: str
    status: str

    @property
    def came_from(self) -> str:
        """The champion until then, or empty."""
        return self.before[0]

    def tags(self) -> dict[str, str]:
        """What a version is told of the move."""
        return {
            "move.action": self.action,
            "move.to": self.to,
            "move.from": self.came_from or NOTHING,
            "move.by": self.by,
            "move.reason": self.reason,
            "move.policy": self.policy or NOTHING,
            "move.at": self.at,
        }


def begin_move(
    tracking: Tracking,
    name: str,
    action: Action,
    to: str,
    before: tuple[str, str, str],
    by: str,
    reason: str,
    policy: str,
) -> Move:
    """Write down a move that is about to be made."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    move = Move(action, to, before, by, reason, policy, at, socket.gethostname(), "", "RUNNING")
    kept = {
        f"move.before.{alias}": old or NOTHING for alias, old in zip(_BEFORE, before, strict=True)
    }
    named = {MLFLOW_RUN_NAME: f"{action} {to}", "fer.stage": action, MODEL_TAG: name}
    # One call makes the run and says everything: there is no run that says half of it.
    run = tracking.client.create_run(
        tracking.experiment_id, tags=named | move.tags() | kept | {"move.host": move.host}
    )
    return replace(move, run_id=str(run.info.run_id))


def end_move(tracking: Tracking, move: Move, *, made: bool) -> None:
    """Close the record of a move that was made, or taken back."""
    tracking.client.set_terminated(move.run_id, "FINISHED" if made else "KILLED")


def read_moves(tracking: Tracking, name: str, *, only_open: bool = False) -> list[Move]:
    """The moves of a registered model, the newest first; whatever experiment they were noted in."""
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
    champion, previous, challenger = (_said(tags, f"move.before.{alias}") for alias in _BEFORE)
    return Move(
        "rollback" if tags["move.action"] == "rollback" else "promote",
        tags["move.to"],
        (champion, previous, challenger),
        _said(tags, "move.by"),
        _said(tags, "move.reason"),
        _said(tags, "move.policy"),
        tags["move.at"],
        _said(tags, "move.host"),
        str(run.info.run_id),
        str(run.info.status),
    )


def _said(tags: Mapping[str, str], key: str) -> str:
    text = tags.get(key, NOTHING)
    return "" if text == NOTHING else text
