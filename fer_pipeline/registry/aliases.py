"""The aliases `champion`, `previous` and `challenger`, and how they move.

Each alias moves at once, but not two together. So a move of `champion` is written down before it
is made, and what a killed process left of it is made by whoever moves next:

    1. the journal, an MLflow run, says what becomes champion in place of what, who asked and why
    2. previous   := the champion until then
    3. champion   := the new version
    4. challenger is taken from the new version, if it had it
    5. the journal says that it is done

Steps 2 to 5 can be repeated. `previous` moves before `champion`: at every moment `champion` is a
whole, checked version, and which version was champion is known.
"""

from __future__ import annotations

import hashlib
import logging
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from filelock import FileLock, Timeout
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from fer_pipeline.errors import RegistryBusyError
from fer_pipeline.registry.local_store import SQLITE
from fer_pipeline.registry.tracking import find_experiment

if TYPE_CHECKING:
    from fer_pipeline.registry.tracking import Tracking

log = logging.getLogger(__name__)

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"

MODEL_TAG = "move.model"
"""Tag of a run of the journal: the registered model."""

LOCK_TIMEOUT_S = 60.0
OTHERS_MOVE_WITHIN_S = 60.0
"""Seconds in which a move that another machine began may still be under way."""

_SHARED = Path(tempfile.gettempdir())  # now: `scratch` gives each process another
_TAGS = {key: f"move.{key}" for key in ("action", "to", "by", "reason", "policy", "at", "host")}
_TAGS["came_from"] = "move.from"


class Aliases(NamedTuple):
    """The versions that the three aliases point to, or None."""

    champion: str | None = None
    previous: str | None = None
    challenger: str | None = None

    def of(self, number: str) -> list[str]:
        """The aliases of a version."""
        return [alias for alias, version in self._asdict().items() if version == number]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Move:
    """One move of `champion`.

    Attributes:
        action: what was asked for.
        to: the version that becomes champion.
        came_from: the champion until then, or empty.
        by: who or what asked for it.
        reason: why, in their words.
        policy: what the policy said; empty where it was not asked.
        at: when, in UTC.
        host: the machine that moved.
        run_id: the run that records it; empty before `begin_move`.
        status: of that run: FINISHED, or RUNNING while it is under way or was killed, or KILLED
            where it was given up.
    """

    action: Literal["promote", "rollback"]
    to: str
    came_from: str
    by: str
    reason: str
    policy: str = ""
    at: str = field(default_factory=_now)
    host: str = field(default_factory=socket.gethostname)
    run_id: str = ""
    status: str = "RUNNING"


def begin_move(tracking: Tracking, name: str, move: Move) -> Move:
    """Write down a move that is about to be made; returns it with its run."""
    told = {tag: value for key, tag in _TAGS.items() if (value := getattr(move, key))}
    tags = told | {MLFLOW_RUN_NAME: f"{move.action} {move.to}", MODEL_TAG: name}
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
    return [
        Move(run_id=run.info.run_id, status=run.info.status, **_read_tags(run.data.tags))
        for run in runs
    ]


def _read_tags(tags: Mapping[str, str]) -> dict[str, Any]:
    return {key: tags.get(tag, "") for key, tag in _TAGS.items()}


def withdrawn(moves: Sequence[Move], number: str) -> str:
    """When and why a version was rolled back as champion.

    Args:
        moves: of the registered model, the newest first.
        number: the version.

    Returns:
        Empty if it was not, or has become champion again since.
    """
    of_it = (one for one in moves if one.status == "FINISHED" and number in (one.to, one.came_from))
    last = next(of_it, None)
    if last is None or last.action == "promote" or last.to == number:
        return ""
    return f"{last.at}: {last.reason}"


def read_aliases(tracking: Tracking, name: str) -> Aliases:
    """What the aliases point to: nothing, if the model does not exist yet."""
    found = tracking.client.search_registered_models(f"name = '{name}'")
    numbers = found[0].aliases if found else {}
    return Aliases(**{key: str(numbers[key]) for key in Aliases._fields if key in numbers})


def set_challenger(tracking: Tracking, name: str, number: str) -> None:
    """Point `challenger` at a version."""
    tracking.client.set_registered_model_alias(name, CHALLENGER, number)


@contextmanager
def alias_lock(tracking: Tracking, name: str) -> Iterator[Move | None]:
    """Hold the lock of every process that moves aliases, once no interrupted move is left.

    Processes of other machines are not locked out: the journal puts in order what they do at once.

    Gives the interrupted move, if there was one: it is made now.

    Raises:
        RegistryBusyError: another process holds the lock, or another machine may be in the middle
            of a move.
    """
    path = _lock_file(tracking.uri)
    try:
        with FileLock(path, timeout=LOCK_TIMEOUT_S):
            yield _recover(tracking, name)
    except Timeout:
        raise RegistryBusyError(
            f"another process has been busy with the registry for {LOCK_TIMEOUT_S:g} s ({path}): "
            "wait for it, or end it, and try again"
        ) from None


def _recover(tracking: Tracking, name: str) -> Move | None:
    finished = None
    for move in reversed(read_moves(tracking, name, only_open=True)):
        age_s = time.time() - datetime.fromisoformat(move.at).timestamp()
        if move.host != socket.gethostname() and age_s < OTHERS_MOVE_WITHIN_S:
            raise _busy(name)
        if _make(tracking, name, move):
            finished = move
            log.info("finished an interrupted %s to version %s", move.action, move.to)
    return finished


def move_champion(tracking: Tracking, name: str, asked: Move) -> Move:
    """Make a version champion, and the champion `previous`; a rollback is the same move.

    The caller holds `alias_lock`, so that on this machine no other move is open.

    Raises:
        RegistryBusyError: the champion is no longer the one that the move comes from, or another
            machine began a move at the same time. Of two that see each other both give way, since
            no alias has moved yet.
    """
    move = begin_move(tracking, name, asked)
    if len(read_moves(tracking, name, only_open=True)) > 1:
        tracking.client.set_terminated(move.run_id, "KILLED")
        raise _busy(name)
    if not _make(tracking, name, move):
        raise _busy(name)
    return move


def _make(tracking: Tracking, name: str, move: Move) -> bool:
    """Move the aliases as the journal says.

    Unless the champion is another one by now, or the new one is no longer there: an interrupted
    move that can't be made must not stand in the way of all others.
    """
    client, now = tracking.client, read_aliases(tracking, name)
    there = {str(one.version) for one in client.search_model_versions(f"name = '{name}'")}
    if (now.champion or "") not in (move.came_from, move.to) or move.to not in there:
        client.set_terminated(move.run_id, "KILLED")
        return False
    if move.came_from in there:
        client.set_registered_model_alias(name, PREVIOUS, move.came_from)
    client.set_registered_model_alias(name, CHAMPION, move.to)
    if now.challenger == move.to:
        client.delete_registered_model_alias(name, CHALLENGER)
    client.set_terminated(move.run_id, "FINISHED")
    return True


def _lock_file(uri: str) -> Path:
    """Beside a SQLite file; for a server in the folder for temporary files, by its address."""
    if uri.startswith(SQLITE):
        return Path(f"{uri.removeprefix(SQLITE)}.moves.lock")
    address = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return _SHARED / f"fer-{Path.home().name}-{address}.moves.lock"


def _busy(name: str) -> RegistryBusyError:
    return RegistryBusyError(
        f"another process is moving the champion of {name}: see 'fer registry status', and try "
        "again in a minute"
    )
