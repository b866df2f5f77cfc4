"""The flow `promotion`: a version becomes champion, or the last move is undone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future
from contextvars import copy_context
from pathlib import Path
from threading import Thread
from typing import Any, Literal

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.states import Completed

from fer_pipeline.errors import FlowError
from flows.session import Session, run_in_session

_ALIASES = ("champion", "challenger", "previous")


class Approval(RunInput):
    """The form that a person fills in."""

    approved: bool = False
    comment: str = ""


@flow(name="promotion")
def promotion(
    action: Literal["promote", "rollback"] = "promote",
    version: int | None = None,
    reason: str = "",
    force: bool = False,
    require_approval: bool = False,
    approval_timeout_s: int = 86400,
    folder: Path = Path(),
) -> State[None]:
    """Move the alias champion, as the policy in params.yaml allows.

    Args:
        action: make a version champion, or go back to the one before.
        version: to promote; none takes the challenger.
        reason: kept with the move.
        force: promote against the policy; that is kept with the move, too.
        require_approval: pause until the move is approved or declined on the run's page.
        approval_timeout_s: how long to wait for that.
        folder: of params.yaml.
    """

    def work(here: Session) -> State[None]:
        chosen, why = version, reason
        if require_approval:
            chosen, answer = _ask(here, action, version, approval_timeout_s)
            if not answer.approved:
                return Completed(name="Declined", message=answer.comment or "Not approved.")
            why = "; ".join(filter(None, (reason, answer.comment)))
        command = ["fer", "registry", action, "--by", here.name]
        if action == "promote":
            command += [str(chosen)] if chosen is not None else []
            command += ["--force"] if force else []
        command += ["--reason", why] if why else []
        done = here.run(command).require_success(action)
        versions = {key: one for key, one in _status(here).items() if key in _ALIASES and one}
        rows = [{"alias": alias, **about} for alias, about in versions.items()]
        create_table_artifact(rows, key="fer-registry", description="The registry after the move")
        return Completed(message=done.lines[-1] if done.lines else action)

    return run_in_session(work, folder)


def _version_to_ask_for(action: str, version: int | None, status: Mapping[str, Any]) -> int | None:
    """The version to approve and promote, which stays the same if the challenger changes.

    Raises:
        FlowError: there is no challenger.
    """
    if action == "rollback" or version is not None:
        return version
    if status["challenger"] is None:
        raise FlowError("there is no challenger to promote: name a version")
    return int(status["challenger"]["version"])


def _require_unmoved(here: Session, before: Mapping[str, Any]) -> None:
    """A rollback names no version, so the one that was approved must be the one still due.

    Raises:
        FlowError: the champion has been moved since.
    """
    now = _status(here)
    if (now["champion"], now["previous"]) != (before["champion"], before["previous"]):
        raise FlowError("the champion has moved since this was approved: ask again")


def _ask(
    here: Session, action: str, version: int | None, timeout_s: int
) -> tuple[int | None, Approval]:
    """Pause the run until it is answered; gives the version that was asked about, and the answer.

    Raises:
        FlowError: no answer came in time, there is no challenger, or the champion has been moved
            since a rollback was approved.
        StoppedError: the run was cancelled.
    """
    before = _status(here)
    version = _version_to_ask_for(action, version, before)
    question = action if version is None else f"{action} {version}"
    status = json.dumps(before, indent=2)
    form = Approval.with_initial_data(
        description=f"**{question}?**\n\nThe registry at present:\n\n```json\n{status}\n```"
    )
    answer: Future[Approval] = Future()

    def pause() -> None:
        try:
            given = pause_flow_run(wait_for_input=form, timeout=timeout_s, poll_interval=2)
            answer.set_result(given)
        except BaseException as error:  # raised where the answer is waited for
            answer.set_exception(error)

    # In another thread, because a pause does not end when the run is cancelled.
    Thread(target=copy_context().run, args=(pause,), daemon=True).start()
    while not answer.done():
        here.processes.wait(0.2)
    try:
        given = answer.result()
    except FlowPauseTimeout:
        raise FlowError(f"No answer within {timeout_s} s: nothing was moved.") from None
    if given.approved and action == "rollback":
        _require_unmoved(here, before)
    return version, given


def _status(here: Session) -> dict[str, Any]:
    command = ["fer", "registry", "status", "--json"]
    return here.run(command).require_success("asking the registry").document()
