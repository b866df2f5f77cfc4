"""The aliases `champion`, `previous` and `challenger`, and how they move.

Each alias moves at once, but not two together, so a move of `champion` is a sequence that may be
killed anywhere:

    1. the journal says what will be done and what the aliases point to
    2. previous   := the champion of now
    3. champion   := the new version
    4. challenger is taken from the new version, if it had it
    5. the version's tag `move` says how it became champion
    6. the journal says that it is done

`previous` moves before `champion`: at every moment `champion` is a whole, checked version, and
which version was champion is written down before it is lost. Whoever moves next first takes
`alias_lock`, which recovers: if `champion` had moved, the move is finished (4 to 6), else
`previous` goes back to where it was.

The journal has one MLflow run for each move. The run is written before the first alias moves and
says how the aliases were, so that a move that was killed half-way can be told from one that never
began.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from fer_pipeline.errors import RegistryBusyError
from fer_pipeline.registry.tracking import find_experiment, registry_lock

if TYPE_CHECKING:
    from mlflow.entities import Run

    from fer_pipeline.registry.tracking import Tracking

log = logging.getLogger(__name__)

CHAMPION = "champion"
PREVIOUS = "previous"
CHALLENGER = "challenger"

WITHDRAWN_TAG = "withdrawn"
"""Tag of a version: when and why it was rolled back as champion."""

MODEL_TAG = "move.model"
"""Tag of a run of the journal: the registered model."""

MOVE_TAG = "move"
"""Tag of a version: when, by whom and why it became champion."""

NOTHING = "none"
"""Value of a tag that says nothing: MLflow's tags may not be empty."""

LOCK_TIMEOUT_S = 60.0
OTHERS_MOVE_WITHIN_S = 60.0
"""Seconds in which a move that another machine began may still be under way."""

Action = Literal["promote", "rollback"]

_TEXTS = ("to", "by", "reason", "policy", "at", "host")


@dataclass(frozen=True)
class Aliases:
    """The versions that the three aliases point to, or None."""

    champion: str | None = None
    previous: str | None = None
    challenger: str | None = None

    @classmethod
    def of_model(cls, found: Mapping[str, str]) -> Aliases:
        """Those three of a model's aliases, among which there may be others."""
        ours = (found.get(alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER))
        return cls(*(str(number) if number else None for number in ours))

    def of(self, number: str) -> list[str]:
        """The aliases of a version."""
        return [alias for alias, version in asdict(self).items() if version == number]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Move:
    """One move of `champion`.

    Attributes:
        action: what was asked for.
        to: the version that becomes champion.
        before: what the aliases pointed to.
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
    before: Aliases
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
        return self.before.champion or ""

    def __str__(self) -> str:
        policy = f" ({self.policy})" if self.policy else ""
        came_from = self.came_from or NOTHING
        return f"{self.at}: {self.action} from {came_from} by {self.by}: {self.reason}{policy}"


def begin_move(tracking: Tracking, name: str, move: Move) -> Move:
    """Write down a move that is about to be made; returns it with its run."""
    told = {key: getattr(move, key) for key in ("action", *_TEXTS)} | {"from": move.came_from}
    told |= {f"before.{alias}": number for alias, number in asdict(move.before).items()}
    tags = {MLFLOW_RUN_NAME: f"{move.action} {move.to}", "fer.stage": move.action, MODEL_TAG: name}
    tags |= {f"move.{key}": value or NOTHING for key, value in told.items()}
    moves = find_experiment(tracking.client, tracking.uri, f"{name} promotions")
    # One call makes the run with all its tags: there is no run that says half of it.
    run = tracking.client.create_run(moves, tags=tags)
    return replace(move, run_id=str(run.info.run_id))


def read_moves(tracking: Tracking, name: str, *, only_open: bool = False) -> list[Move]:
    """The moves of a registered model, the newest first; whatever experiment they are in."""
    experiments = [one.experiment_id for one in tracking.client.search_experiments()]
    wanted = f"tags.`{MODEL_TAG}` = '{name}'"
    if only_open:
        wanted += " and attributes.status = 'RUNNING'"
    runs = tracking.client.search_runs(experiments, wanted, order_by=["attributes.start_time DESC"])
    return [_read_move(run) for run in runs]


def _read_move(run: Run) -> Move:
    told = {key: "" if value == NOTHING else value for key, value in run.data.tags.items()}
    return Move(
        action="rollback" if told["move.action"] == "rollback" else "promote",
        before=Aliases.of_model(
            {key.removeprefix("move.before."): version for key, version in told.items()}
        ),
        run_id=str(run.info.run_id),
        status=str(run.info.status),
        **{key: told.get(f"move.{key}", "") for key in _TEXTS},
    )


def read_aliases(tracking: Tracking, name: str) -> Aliases:
    """What the aliases point to: nothing, if the model does not exist yet."""
    found = tracking.client.search_registered_models(f"name = '{name}'")
    return Aliases.of_model(found[0].aliases) if found else Aliases()


def set_challenger(tracking: Tracking, name: str, number: str) -> None:
    """Point `challenger` at a version."""
    tracking.client.set_registered_model_alias(name, CHALLENGER, number)


@contextmanager
def alias_lock(tracking: Tracking, name: str) -> Iterator[Move | None]:
    """Hold the lock of every process that moves aliases, once no interrupted move is left.

    Gives the interrupted move, if there was one that is now finished; one that had not reached
    `champion` is taken back.

    Raises:
        RegistryBusyError: another process holds the lock, or another machine may be in the middle
            of a move.
    """
    with registry_lock(tracking, "moves", LOCK_TIMEOUT_S):
        yield _recover(tracking, name)


def move_champion(
    tracking: Tracking,
    name: str,
    to: str,
    *,
    action: Action,
    by: str,
    reason: str,
    policy: str = "",
) -> Move:
    """Make a version champion, and the champion `previous`.

    A rollback is the same move: `to` is then what `previous` points to. The caller holds
    `alias_lock`, so that no other move is open.

    Args:
        tracking, name: the store and the registered model.
        to: the version.
        action: what was asked for.
        by: who or what asks.
        reason: why, in their words.
        policy: what the policy said; empty where it was not asked.

    Raises:
        RegistryBusyError: another machine began a move at the same time. Of two that see each
            other both give way, since no alias has moved yet.
    """
    now = read_aliases(tracking, name)
    asked = Move(action=action, to=to, before=now, by=by, reason=reason, policy=policy)
    move = begin_move(tracking, name, asked)
    try:
        _require_alone(tracking, name, move)
    except RegistryBusyError:
        tracking.client.set_terminated(move.run_id, "KILLED")
        raise
    if now.champion is not None:
        tracking.client.set_registered_model_alias(name, PREVIOUS, now.champion)
    tracking.client.set_registered_model_alias(name, CHAMPION, to)
    _finish(tracking, name, move)
    return move


def _recover(tracking: Tracking, name: str) -> Move | None:
    finished = None
    for move in read_moves(tracking, name, only_open=True):
        age_s = time.time() - datetime.fromisoformat(move.at).timestamp()
        if move.host != socket.gethostname() and age_s < OTHERS_MOVE_WITHIN_S:
            raise _busy(name, move)
        if read_aliases(tracking, name).champion == move.to:
            _finish(tracking, name, move)
            finished = move
            log.info("finished an interrupted %s to version %s", move.action, move.to)
        else:
            _take_back(tracking, name, move)
            log.info("took back an interrupted %s to version %s", move.action, move.to)
    return finished


def _require_alone(tracking: Tracking, name: str, move: Move) -> None:
    """See that no other machine did anything since the aliases were read for this move.

    Raises:
        RegistryBusyError: another one did.
    """
    for other in read_moves(tracking, name, only_open=True):
        if other.run_id != move.run_id:
            raise _busy(name, other)
    if read_aliases(tracking, name) != move.before:
        raise RegistryBusyError(
            f"the aliases of {name} have moved at this moment: see 'fer registry status'"
        )


def _busy(name: str, move: Move) -> RegistryBusyError:
    return RegistryBusyError(
        f"{move.by} is moving {name} to version {move.to} on {move.host}: try again in a minute"
    )


def _finish(tracking: Tracking, name: str, move: Move) -> None:
    if read_aliases(tracking, name).challenger == move.to:
        tracking.client.delete_registered_model_alias(name, CHALLENGER)
    tracking.client.set_model_version_tag(name, move.to, MOVE_TAG, str(move))
    # A champion that was rolled back is not promoted again unasked; the new one may be.
    if move.action == "rollback" and move.came_from:
        text = f"{move.at}: {move.reason}"
        tracking.client.set_model_version_tag(name, move.came_from, WITHDRAWN_TAG, text)
    if WITHDRAWN_TAG in tracking.client.get_model_version(name, move.to).tags:
        tracking.client.delete_model_version_tag(name, move.to, WITHDRAWN_TAG)
    tracking.client.set_terminated(move.run_id, "FINISHED")


def _take_back(tracking: Tracking, name: str, move: Move) -> None:
    if move.before.previous:
        tracking.client.set_registered_model_alias(name, PREVIOUS, move.before.previous)
    elif read_aliases(tracking, name).previous is not None:
        tracking.client.delete_registered_model_alias(name, PREVIOUS)
    tracking.client.set_terminated(move.run_id, "KILLED")
