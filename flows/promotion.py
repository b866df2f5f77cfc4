"""The flow `promotion`: a version becomes champion, or the last move is undone."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from contextvars import copy_context
from pathlib import Path
from threading import Thread
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import StringConstraints

from fer_pipeline.errors import FlowError
from flows.artifacts import mlflow_links
from flows.session import Session, run_in_session


class Approval(RunInput):
    """The form that a person fills in: nothing is decided by sending it as it is."""

    decision: Literal["approve", "decline"]
    your_name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    comment: str = ""


def _run_name() -> str:
    asked = flow_run.parameters
    return f"{asked.get('action', 'promote')} {asked.get('version') or ''}".rstrip()


@flow(name="promotion", flow_run_name=_run_name)
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
        chosen, why, by = version, reason, here.name
        if require_approval:
            chosen, answer = _ask(here, action, version, approval_timeout_s)
            if answer.decision == "decline":
                why = f": {answer.comment}" if answer.comment else ""
                return Completed(name="Declined", message=f"{answer.your_name} declined{why}")
            why = "; ".join(filter(None, (reason, answer.comment)))
            by = f"{answer.your_name}, {here.name}"
        command = ["fer", "registry", action, "--by", by]
        if action == "promote":
            command += [str(chosen)] if chosen is not None else []
            command += ["--force"] if force else []
        command += ["--reason", why] if why else []
        done = here.run(command).require_success(action)
        moved = [line for line in done.lines if line.startswith("champion: ")] or done.lines
        return Completed(message=moved[-1])

    return run_in_session(work, folder)


def _version_to_ask_for(action: str, version: int | None, status: Mapping[str, Any]) -> int:
    """The version that is to become champion, which stays the same if an alias moves.

    Raises:
        FlowError: there is no such version.
    """
    alias = "challenger" if action == "promote" else "previous"
    if action == "promote" and version is not None:
        return version
    if status[alias] is None:
        raise FlowError(f"there is no {alias} to {action}: name a version to promote")
    return int(status[alias]["version"])


def _require_unmoved(here: Session, before: Mapping[str, Any]) -> None:
    """A rollback names no version, so the one that was approved must be the one still due.

    Raises:
        FlowError: the champion has been moved since.
    """
    now = _status(here)
    if (now["champion"], now["previous"]) != (before["champion"], before["previous"]):
        raise FlowError("the champion has moved since this was approved: ask again")


def _ask(here: Session, action: str, version: int | None, timeout_s: int) -> tuple[int, Approval]:
    """Pause the run until it is answered; gives the version that was asked about, and the answer.

    Raises:
        FlowError: no answer came in time, there is no such version, or the champion has been
            moved since a rollback was approved.
        StoppedError: the run was cancelled.
    """
    before = _status(here)
    version = _version_to_ask_for(action, version, before)
    form = Approval.with_initial_data(description=_question(action, version, before))
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
        raise FlowError(f"no answer within {timeout_s} s: nothing was moved") from None
    if given.decision == "approve" and action == "rollback":
        _require_unmoved(here, before)
    return version, given


def _question(action: str, version: int, status: Mapping[str, Any]) -> str:
    """What is decided, where to look, and the figures: Markdown above the form."""
    name = status["model_name"]
    page, note = mlflow_links()
    this = page(f"models/{name}/versions/{version}", f"version {version}")
    lines = [f"**{action} {version}?** {this} becomes champion of `{name}`. {note}", ""]
    if (policy := status["decision"]) and str(version) == status["challenger"]["version"]:
        says = {True: "yes", False: "no", None: "undecided"}[policy["promote"]]
        lines += [f"The policy says {says}: {policy['reason']}", ""]
    lines += [
        "| | version | accuracy | gain over the best single | recipe | run, with its report |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    for alias in ("champion", "challenger", "previous"):
        if one := status[alias]:
            run = page(f"runs/{one['run_id']}", one["run_id"][:8])
            cells = (alias, one["version"], *_figures(one), one.get("recipe", "–"), run)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _figures(version: Mapping[str, Any]) -> tuple[str, str]:
    """Accuracy, and the gain in points with its interval and p, as a version records them."""
    accuracy = f"{version['accuracy']:.2%}" if "accuracy" in version else "–"
    if "gain" not in version:
        return accuracy, "–"
    low, high = (100 * version[f"gain_ci95_{end}"] for end in ("low", "high"))
    return accuracy, (
        f"{100 * version['gain']:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}, "
        f"McNemar p {version['mcnemar_p']:.2g}"
    )


def _status(here: Session) -> dict[str, Any]:
    command = ["fer", "registry", "status", "--json"]
    return here.run(command).require_success("asking the registry").document()
