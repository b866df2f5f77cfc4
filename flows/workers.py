"""Sends stages to Prefect workers, on this or other machines, and takes what they made.

DVC's remote carries the data; Prefect carries the order and the result (`flows.orders`).
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.logging import get_run_logger
from prefect.states import Cancelling
from pydantic import ValidationError

from fer_pipeline.errors import FlowError, TransientFlowError, hide_password
from flows.graph import Stage
from flows.orders import (
    RESULT_LABEL,
    Order,
    Result,
    as_file,
    commit_to_send,
    known_inputs,
    transfer_command,
    travelling_files,
)
from flows.process import patience
from flows.runs import Pulse, close_run, server_errors
from flows.session import Session

POOL = "fer-stages"
"""The work pool that stages are sent to where nothing names another."""

_POLL_S, _LONGEST_POLL_S = 0.5, 5.0
"""Seconds between two looks at a worker's run: at first, and from some minutes on."""

_NOBODY_AFTER_S = 30.0
"""Seconds that a stage has waited for a worker when that is said."""

_CANCEL_WITHIN_S = 15.0


@dataclass
class Workers:
    """The workers that a flow run sends stages to.

    Attributes:
        session: of the flow run.
        pool: the work pool of stages that name none.
        commit: what the workers check out.
        force: run stages that are up to date, too.
        pushed: stages whose outs are on DVC's remote for certain.
        done: the results of stages that a worker has run; they are never sent again.
        lost: how many workers of a stage were lost.
    """

    session: Session
    pool: str
    commit: str
    force: bool = False
    pushed: set[str] = field(default_factory=set)
    done: dict[str, Result] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    _pushing: Lock = field(default_factory=Lock)

    def run(self, stage: Stage) -> Result:
        """Have a worker bring a stage up to date, and take its outs.

        Raises:
            FlowError: the stage failed, or no worker may run it.
            TransientFlowError: the worker was lost, or DVC's remote does not answer.
            StoppedError: the run is ending; so does the worker's, then.
        """
        if stage.name not in self.done:
            self._push(stage.parents)
            self.done[stage.name] = self._send(self._order(stage), stage.meta.pool or self.pool)
        result, warn = self.done[stage.name], get_run_logger().warning
        self.session.processes.retry(lambda: self._take(result, stage.name), warn, patience())
        self.pushed.add(stage.name)
        return result

    def _order(self, stage: Stage) -> Order:
        folder, uri = self.session.folder, os.environ["MLFLOW_TRACKING_URI"]
        files = travelling_files(folder)
        return Order(
            stage=stage.name,
            commit=self.commit,
            files=files,
            inputs=known_inputs(files, stage.inputs),
            force=self.force,
            deadline_s=stage.meta.deadline_s,
            # So that whichever worker goes on with a training goes on with its MLflow run.
            env={"FER_PLACE": f"{socket.gethostname()}:{folder.resolve()}"},
            # Orders are shown on Prefect's pages: an address with a password stays here.
            defaults={"MLFLOW_TRACKING_URI": uri} if hide_password(uri) == uri else {},
        )

    def _push(self, stages: tuple[str, ...]) -> None:
        with self._pushing:  # three trainings read what one stage has made
            if wanted := [name for name in stages if name not in self.pushed]:
                self._transfer("push", *wanted)
                self.pushed.update(wanted)

    def _send(self, order: Order, pool: str) -> Result:
        with server_errors(f"sending {order.stage}"):
            run = run_deployment(
                f"stage/{pool}",
                parameters={"order": order.model_dump(), "parent": self.session.run_id},
                timeout=0,
                # The same run, if the answer to this is lost and it is sent again.
                idempotency_key=f"{self.session.run_id} {order.stage} {self.lost[order.stage]}",
            )
        assert isinstance(run, FlowRun)  # a coroutine only where there is an event loop
        get_run_logger().info(
            f"{order.stage} is sent to work pool {pool}, as flow run '{run.name}' ({run.id})"
        )
        with self._cancelled_with_this(run.id), get_client(sync_client=True) as client:
            try:
                return self._wait(client, run.id, pool)
            except TransientFlowError:
                self.lost[order.stage] += 1
                raise

    def _wait(self, client: SyncPrefectClient, run_id: UUID, pool: str) -> Result:
        """What came of it, when the worker has done it.

        Raises:
            FlowError: the stage failed there.
            TransientFlowError: the worker was lost.
            StoppedError: this run is ending.
        """
        pulse, sent, told = Pulse(run_id, beats=True), time.monotonic(), False
        while True:
            waited_s = time.monotonic() - sent
            self.session.processes.wait(min(max(_POLL_S, waited_s / 50), _LONGEST_POLL_S))
            try:
                run = client.read_flow_run(run_id)
                state = run.state
                if pulse.is_lost(client, run):
                    state = close_run(client, run_id, "nothing is heard of its machine any more")
            except (PrefectException, httpx.HTTPError):
                continue  # the training goes on while the server is away
            if state is None:
                continue
            if _has_result(state):
                return _result(run)
            if state.is_scheduled() and not told and waited_s > _NOBODY_AFTER_S:
                told = True
                get_run_logger().warning(
                    f"'{run.name}' waits for a worker of pool {pool}: all are busy, or none runs "
                    f"('python -m flows worker --pool {pool}')"
                )

    @contextmanager
    def _cancelled_with_this(self, run_id: UUID) -> Iterator[None]:
        """Cancel the worker's run if this one ends before it, and wait a little for its end.

        Prefect leaves runs of other deployments to themselves.
        """
        try:
            yield
        finally:
            with (
                suppress(PrefectException, httpx.HTTPError),
                get_client(sync_client=True) as client,
            ):
                end = time.monotonic() + _CANCEL_WITHIN_S
                while not _is_over(client, run_id) and time.monotonic() < end:
                    time.sleep(0.5)

    def _take(self, result: Result, stage: str) -> None:
        with as_file(result) as file:
            self._transfer("take", file, stage)

    def _transfer(self, verb: str, *arguments: str) -> None:
        self.session.run(transfer_command(verb, *arguments)).require_success(verb)


def _has_result(state: State[Any]) -> bool:
    """Whether a run has done what it was sent for; not yet, if it has not ended.

    Raises:
        FlowError: it failed.
        TransientFlowError: it, its worker or its machine was lost.
    """
    if state.is_crashed():
        raise TransientFlowError(f"its worker is lost, and another one takes it: {state.message}")
    if state.is_final() and not state.is_completed():
        raise FlowError(str(state.message or "the worker's run was cancelled"))
    return bool(state.is_completed())


def _is_over(client: SyncPrefectClient, run_id: UUID) -> bool:
    """Whether a run has ended; it is asked to if it has not been asked yet."""
    state = client.read_flow_run(run_id).state
    if state is None or state.is_final():
        return True
    if not state.is_cancelling():
        client.set_flow_run_state(run_id, Cancelling(message="The run that sent it has ended."))
    return False


def _result(run: FlowRun) -> Result:
    """
    Raises:
        FlowError: the worker's clone has other code, which tells it in another way.
    """
    try:
        return Result.model_validate_json(str(run.labels[RESULT_LABEL]))
    except (KeyError, ValidationError):
        raise FlowError(
            f"'{run.name}' was run by other code than this flow's: update the worker's clone"
        ) from None


def find_workers(
    here: Session, stages: Iterable[Stage], pool: str, *, remote: bool, force: bool
) -> Workers:
    """Check what workers need, before anything runs.

    Args:
        here: the session of the flow run.
        stages: those that are to run.
        pool: the work pool of stages that name none.
        remote: whether DVC has a default remote.
        force: run stages that are up to date, too.

    Raises:
        FlowError: files are not committed, there is no DVC remote, MLflow is no server, or a work
            pool has no deployment of the flow `stage`.
        TransientFlowError: the Prefect server does not answer.
    """
    commit = commit_to_send(here.folder)
    if not remote:
        raise FlowError(
            "there is no default DVC remote, which carries the data to workers and back: 'dvc "
            "remote add --default store s3://bucket/dvc', and commit .dvc/config"
        )
    if not os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http"):
        raise FlowError(
            "MLFLOW_TRACKING_URI names no server, to which trainings on workers could log: start "
            "'mlflow server', and set it to its address here"
        )
    pools = {one.meta.pool or pool for one in stages if one.meta.slot}
    with server_errors("asking for deployments"), get_client(sync_client=True) as client:
        for name in sorted(pools):
            try:
                client.read_deployment_by_name(f"stage/{name}")
            except ObjectNotFound:
                raise FlowError(
                    f"no deployment takes stages to the work pool '{name}': 'python -m flows "
                    f"deploy --stage-pool {name}'"
                ) from None
    return Workers(here, pool, commit, force)
