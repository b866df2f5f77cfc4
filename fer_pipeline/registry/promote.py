"""Who becomes champion: promotions by the policy, the way back, and the status of it all."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fer_pipeline.errors import RegistryError
from fer_pipeline.registry.aliases import (
    Move,
    alias_lock,
    move_champion,
    read_aliases,
    set_challenger,
)
from fer_pipeline.registry.check import check_version
from fer_pipeline.registry.fetch import find_version, require_files
from fer_pipeline.registry.policy import FIGURES, evaluate_policy

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params
    from fer_pipeline.registry.tracking import Tracking

log = logging.getLogger(__name__)

_NAMES = ("recipe", "data.source", "data.sha256", "git.commit")


def nominate(tracking: Tracking, params: Params, number: str) -> bool:
    """Check a version and make it challenger; the champion is left what it is.

    Returns:
        Whether it is challenger now.

    Raises:
        RegistryError: it fails its check, or has lost its files; no alias was moved.
    """
    name = params.registry.model_name
    now = read_aliases(tracking, name)
    if number in (now.champion, now.challenger):
        require_files(tracking, name, number)  # which may be lost since it was checked
    else:
        log.info("%s", check_version(tracking, name, number))
    with alias_lock(tracking, name):
        is_champion = read_aliases(tracking, name).champion == number
        if not is_champion:
            set_challenger(tracking, name, number)
    return not is_champion


def promote(
    tracking: Tracking,
    params: Params,
    wanted: str | None,
    *,
    by: str,
    reason: str,
    force: bool = False,
) -> Move | None:
    """Make a version champion, if the policy allows it.

    Args:
        tracking: the store.
        params: names, policy, bootstrap.
        wanted: a version, or an alias; None for the challenger.
        by: who or what asks.
        reason: why, in their words.
        force: whether to promote also where the policy says no; that is recorded.

    Returns:
        The move; None if the version was champion already.

    Raises:
        RegistryError: there is no such version, the policy says no, or the version fails its
            check. No alias was moved.
    """
    name = params.registry.model_name
    with alias_lock(tracking, name) as finished:
        before = read_aliases(tracking, name)
    if finished and finished.action == "promote" and wanted in (None, finished.to):
        return finished
    wanted = wanted or before.challenger
    if wanted is None:
        raise RegistryError(
            f"{name} has no challenger: 'dvc repro' registers one, or name a version"
        )
    number = find_version(tracking, name, wanted)
    if number == before.champion:
        return None
    policy = _ask_policy(tracking, params, number, force=force)
    log.info("%s", check_version(tracking, name, number))
    told = Move(
        action="promote",
        to=number,
        came_from=before.champion or "",
        by=by,
        reason=reason,
        policy=policy,
    )
    with alias_lock(tracking, name):
        return move_champion(tracking, name, told)


def roll_back(tracking: Tracking, name: str, *, by: str, reason: str) -> Move:
    """Make the previous champion champion again; a second time brings back the other.

    It is for when the champion harms, so it does not wait for a process that loads the model:
    the version was checked when it became champion, and here only the presence and the sizes of
    its files are.

    Raises:
        RegistryError: there is no previous champion, or its files are gone. No alias was moved.
    """
    with alias_lock(tracking, name) as finished:
        if finished and finished.action == "rollback":
            return finished
        now = read_aliases(tracking, name)
        if now.previous is None or now.champion is None:
            raise RegistryError(
                f"{name} has no previous champion to go back to: "
                "'fer registry promote VERSION' names one"
            )
        require_files(tracking, name, now.previous)
        move = Move(
            action="rollback", to=now.previous, came_from=now.champion, by=by, reason=reason
        )
        return move_champion(tracking, name, move)


def read_status(tracking: Tracking, params: Params) -> dict[str, object]:
    """What `fer registry status --json` prints.

    Returns:
        `model_name`; `champion`, `challenger` and `previous`, each null or with `version`, its
        figures and its origin; and `decision` on the challenger with `promote` and `reason`, null
        without a challenger. `promote` is null where the champion must be scored on the
        challenger's test images first, which `fer registry promote` does.
    """
    name = params.registry.model_name
    now = read_aliases(tracking, name)
    decision = None
    if now.challenger:
        decision = evaluate_policy(tracking, params, now.challenger, may_score=False)
    described = {
        alias: _describe_version(tracking, name, number) if number else None
        for alias, number in now._asdict().items()
    }
    decided = decision and decision._asdict()
    return {"model_name": name, **described, "decision": decided}


def _ask_policy(tracking: Tracking, params: Params, number: str, *, force: bool) -> str:
    """What the policy says, for the record.

    Raises:
        RegistryError: it says no, or can't say, and `force` is not given.
    """
    decision = evaluate_policy(tracking, params, number)
    if not decision.promote and not force:
        raise RegistryError(
            f"version {number} is not promoted: {decision.reason} "
            "('fer registry promote --force' overrides, and is recorded)"
        )
    return f"{'promote' if decision.promote else 'overridden'}: {decision.reason}"


def _describe_version(tracking: Tracking, name: str, number: str) -> dict[str, object]:
    found = tracking.client.get_model_version(name, number)
    figures = {key: float(found.tags[key]) for key in FIGURES if key in found.tags}
    named = {key: found.tags[key] for key in _NAMES if key in found.tags}
    return {"version": number, "run_id": found.run_id, **figures, **named}
