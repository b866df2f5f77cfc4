"""Who becomes champion: promotions by the policy, and the way back."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from fer_pipeline.errors import RegistryBusyError, RegistryError
from fer_pipeline.registry.aliases import (
    WITHDRAWN_TAG,
    Request,
    heal,
    move_champion,
    moving,
    read_aliases,
    set_challenger,
)
from fer_pipeline.registry.check import check_version, require_files
from fer_pipeline.registry.duels import find_duel
from fer_pipeline.registry.policy import Decision, decide

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params
    from fer_pipeline.registry.journal import Move
    from fer_pipeline.registry.tracking import Tracking

log = logging.getLogger(__name__)

GATE_TAG = "gate.passed"


@dataclass(frozen=True)
class Asking:
    """Who asks for a move, and why; with `force` the policy is asked but not obeyed."""

    by: str
    reason: str
    force: bool = False


def nominate(tracking: Tracking, params: Params, number: str) -> bool:
    """Check a version and make it challenger; the champion is left what it is.

    Returns:
        Whether it is challenger now.

    Raises:
        RegistryError: it fails its check; no alias was moved.
    """
    name = params.registry.model_name
    now = read_aliases(tracking, name)
    if now.champion == number:
        return False
    if now.challenger == number:
        return True
    log.info("%s", check_version(tracking, name, number))
    with moving(tracking):
        heal(tracking, name)
        if read_aliases(tracking, name).champion == number:  # promoted meanwhile
            return False
        set_challenger(tracking, name, number)
    return True


def weigh(
    tracking: Tracking, params: Params, number: str, *, may_score: bool = True
) -> Decision | None:
    """What the policy says of a version; None where only scoring the champion again could tell."""
    name = params.registry.model_name
    champion = read_aliases(tracking, name).champion
    tags = tracking.client.get_model_version(name, number).tags
    passed, withdrawn = tags.get(GATE_TAG) == "true", tags.get(WITHDRAWN_TAG, "")
    if champion is None:
        return decide(passed, None, params.promotion, withdrawn)
    duel = find_duel(tracking, params, number, champion, may_score=may_score)
    return None if duel is None else decide(passed, duel, params.promotion, withdrawn)


def promote(tracking: Tracking, params: Params, wanted: str | None, asking: Asking) -> Move | None:
    """Make a version champion, if the policy allows it.

    Args:
        tracking: the store.
        params: names, policy, bootstrap.
        wanted: a version; None for the challenger.
        asking: who, why, and whether the policy is obeyed.

    Returns:
        The move; None if the version was champion already.

    Raises:
        RegistryError: there is no such version, the policy says no, or the version fails its
            check. No alias was moved.
    """
    name = params.registry.model_name
    with moving(tracking):
        finished = heal(tracking, name)
    if finished and finished.action == "promote" and wanted in (None, finished.to):
        return finished
    before = read_aliases(tracking, name)
    wanted = wanted or before.challenger
    if wanted is None:
        raise RegistryError(
            f"{name} has no challenger: 'dvc repro' registers one, or name a version"
        )
    number = _require_version(tracking, name, wanted)
    if number == before.champion:
        return None
    policy = _policy(tracking, params, number, asking)
    log.info("%s", check_version(tracking, name, number))
    with moving(tracking):
        heal(tracking, name)
        if read_aliases(tracking, name).champion != before.champion:
            raise RegistryBusyError(f"the champion of {name} has changed meanwhile: try again")
        request = Request("promote", asking.by, asking.reason, policy)
        return move_champion(tracking, name, number, request)


def roll_back(tracking: Tracking, name: str, asking: Asking) -> Move:
    """Make the previous champion champion again; a second time brings back the other.

    It is for when the champion harms, so it does not wait for a process that loads the model:
    the version was checked when it became champion, and here only its files are looked for.

    Raises:
        RegistryError: there is no previous champion, or its files are gone. No alias was moved.
    """
    with moving(tracking):
        finished = heal(tracking, name)
        if finished and finished.action == "rollback":
            return finished
        now = read_aliases(tracking, name)
        if now.previous is None or now.champion is None:
            raise RegistryError(
                f"{name} has no previous champion to go back to: "
                "'fer registry promote VERSION' names one"
            )
        require_files(tracking, name, now.previous)
        request = Request("rollback", asking.by, asking.reason)
        return move_champion(tracking, name, now.previous, request)


def _policy(tracking: Tracking, params: Params, number: str, asking: Asking) -> str:
    """What the policy says, for the record.

    Raises:
        RegistryError: it says no, or can't say, and it is to be obeyed.
    """
    try:
        decision = weigh(tracking, params, number)
        assert decision is not None  # the champion may be scored again
    except RegistryError as error:
        if not asking.force:
            raise
        return f"overridden: {error}"
    if decision.promote:
        return f"promote: {decision.reason}"
    if not asking.force:
        raise RegistryError(
            f"version {number} is not promoted: {decision.reason} "
            "('fer registry promote --force' overrides, and is recorded)"
        )
    return f"overridden: {decision.reason}"


def _require_version(tracking: Tracking, name: str, number: str) -> str:
    """Its number as the registry writes it: `02` is version 2."""
    try:
        return str(tracking.client.get_model_version(name, number).version)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        raise RegistryError(
            f"{name} has no version {number}: 'fer registry status' shows those that count"
        ) from None
