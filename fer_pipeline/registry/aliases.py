"""The aliases `champion`, `previous` and `challenger`, and how they move.

Each alias moves at once, but not two together, so a move of `champion` is a sequence that may be
killed anywhere:

    1. the journal says what will be done and what the aliases point to
    2. previous   := the champion of now
    3. champion   := the new version
    4. challenger is taken from the new version, if it had it
    5. the version's tags say how it became champion
    6. the journal says that it is done

`previous` moves before `champion`: at every moment `champion` is a whole, checked version, and
which version was champion is written down before it is lost. Whoever moves next first calls
`recover`: if `champion` had moved, the move is finished (4 to 6), else `previous` goes back to
where it was.
"""

from __future__ import annotations

import logging
import socket
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException

from fer_pipeline.errors import RegistryBusyError
from fer_pipeline.registry.journal import Action, Move, age_s, begin_move, end_move, read_moves
from fer_pipeline.registry.tracking import is_missing, registry_lock

if TYPE_CHECKING:
    from fer_pipeline.registry.tracking import Tracking

log = logging.getLogger(__name__)

CHAMPION = "champion"
PREVIOUS = "previous"
CHALLENGER = "challenger"

WITHDRAWN_TAG = "withdrawn"
"""Tag of a version: when and why it was rolled back as champion."""

LOCK_TIMEOUT_S = 60.0
OTHERS_MOVE_WITHIN_S = 60.0
"""Seconds in which a move that another machine began may still be under way."""


@dataclass(frozen=True)
class Aliases:
    """The versions that the three aliases point to, or None."""

    champion: str | None
    previous: str | None
    challenger: str | None

    def of(self, number: str) -> list[str]:
        """The aliases of a version."""
        named = {CHAMPION: self.champion, PREVIOUS: self.previous, CHALLENGER: self.challenger}
        return [alias for alias, version in named.items() if version == number]


def read_aliases(tracking: Tracking, name: str) -> Aliases:
    """What the aliases point to: nothing, if the model does not exist yet."""
    try:
        found = tracking.client.get_registered_model(name).aliases
    except MlflowException as error:
        if not is_missing(error):
            raise
        found = {}
    champion, previous, challenger = (
        None if found.get(alias) is None else str(found[alias])
        for alias in (CHAMPION, PREVIOUS, CHALLENGER)
    )
    return Aliases(champion, previous, challenger)


def set_challenger(tracking: Tracking, name: str, number: str) -> None:
    """Point `challenger` at a version."""
    tracking.client.set_registered_model_alias(name, CHALLENGER, number)


def alias_lock(tracking: Tracking) -> AbstractContextManager[None]:
    """The lock that every process holds while it moves `champion`."""
    return registry_lock(tracking, "moves", LOCK_TIMEOUT_S)


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
    `alias_lock` and has called `recover`, so that no other move is open.

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
    before = (now.champion or "", now.previous or "", now.challenger or "")
    move = begin_move(
        tracking,
        name,
        Move(action=action, to=to, before=before, by=by, reason=reason, policy=policy),
    )
    conflict = _conflict(tracking, name, move, now)
    if conflict:
        end_move(tracking, move, made=False)
        raise conflict
    if now.champion is not None:
        tracking.client.set_registered_model_alias(name, PREVIOUS, now.champion)
    tracking.client.set_registered_model_alias(name, CHAMPION, to)
    _finish(tracking, name, move)
    return move


def recover(tracking: Tracking, name: str) -> Move | None:
    """Finish or take back a move that was killed; returns it if it was finished.

    The caller holds `alias_lock`.

    Raises:
        RegistryBusyError: another machine may be in the middle of a move.
    """
    finished = None
    for move in read_moves(tracking, name, only_open=True):
        if move.host != socket.gethostname() and age_s(move) < OTHERS_MOVE_WITHIN_S:
            raise _busy(name, move)
        if read_aliases(tracking, name).champion == move.to:
            _finish(tracking, name, move)
            finished = move
            log.info("finished an interrupted %s to version %s", move.action, move.to)
        else:
            _take_back(tracking, name, move)
            log.info("took back an interrupted %s to version %s", move.action, move.to)
    return finished


def _conflict(
    tracking: Tracking, name: str, move: Move, before: Aliases
) -> RegistryBusyError | None:
    """What another machine did after the aliases were read and before this move began."""
    for other in read_moves(tracking, name, only_open=True):
        if other.run_id != move.run_id:
            return _busy(name, other)
    if read_aliases(tracking, name) != before:
        return RegistryBusyError(
            f"the aliases of {name} have moved at this moment: see 'fer registry status'"
        )
    return None


def _busy(name: str, move: Move) -> RegistryBusyError:
    return RegistryBusyError(
        f"{move.by} is moving {name} to version {move.to} on {move.host}: try again in a minute"
    )


def _finish(tracking: Tracking, name: str, move: Move) -> None:
    if read_aliases(tracking, name).challenger == move.to:
        tracking.client.delete_registered_model_alias(name, CHALLENGER)
    for key, value in move.tags().items():
        tracking.client.set_model_version_tag(name, move.to, key, value)
    _tag_withdrawal(tracking, name, move)
    end_move(tracking, move, made=True)


def _tag_withdrawal(tracking: Tracking, name: str, move: Move) -> None:
    """A champion that was rolled back is not promoted again unasked; the new one may be."""
    if move.action == "rollback" and move.came_from:
        text = f"{move.at}: {move.reason}"
        tracking.client.set_model_version_tag(name, move.came_from, WITHDRAWN_TAG, text)
    if WITHDRAWN_TAG in tracking.client.get_model_version(name, move.to).tags:
        tracking.client.delete_model_version_tag(name, move.to, WITHDRAWN_TAG)


def _take_back(tracking: Tracking, name: str, move: Move) -> None:
    previous = move.before[1]
    if previous:
        tracking.client.set_registered_model_alias(name, PREVIOUS, previous)
    elif read_aliases(tracking, name).previous is not None:
        tracking.client.delete_registered_model_alias(name, PREVIOUS)
    end_move(tracking, move, made=False)
