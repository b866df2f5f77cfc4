"""What every flow does around its work: its end, of whatever kind, is seen to and reported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run
from prefect.states import Cancelled

from flows.children import Children

_ASK_EVERY_S = 2.0
_GUARDIAN = Path(__file__).with_name("guardian.py")
_CANCELLED = {StateType.CANCELLING, StateType.CANCELLED}


class Session:
    """One flow run at work in a folder.

    Attributes:
        folder: of `dvc.yaml`.
        who: the run, in words.
        children: runs its commands; they have ended when the session ends.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.who = f"flow run '{flow_run.get_name()}'"
        self.children = Children(folder)
        self._cancelled = Event()

    def ended_early(self) -> State[None] | None:
        """The state to end in, if somebody has cancelled the run."""
        return Cancelled(message="The run was cancelled.") if self._cancelled.is_set() else None

    def cancel(self) -> None:
        self._cancelled.set()
        self.children.stop()


@contextmanager
def session(folder: Path) -> Iterator[Session]:
    """Work in a folder until the end, a cancellation, or the death of this process."""
    run_id = UUID(flow_run.get_id())
    here = Session(folder)
    with _guarded(run_id), here.children, _listening(run_id, here):
        yield here


@contextmanager
def _guarded(run_id: UUID) -> Iterator[None]:
    """A process that reports this one's death, if it is killed within the block."""
    guardian = subprocess.Popen(
        [sys.executable, str(_GUARDIAN), str(run_id)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert guardian.stdin is not None
    try:
        yield
    finally:
        guardian.stdin.write(b".")
        guardian.stdin.close()
        guardian.wait()


@contextmanager
def _listening(run_id: UUID, here: Session) -> Iterator[None]:
    """Obey a cancellation that nobody else carries out.

    A worker ends the processes of its runs; one that was started by hand has no worker.
    """
    ended = Event()

    def listen() -> None:
        with get_client(sync_client=True) as client:
            while not ended.wait(_ASK_EVERY_S):
                try:
                    state = client.read_flow_run(run_id).state
                except (PrefectException, httpx.HTTPError):
                    continue  # a server that is away for a while is no reason to end a training
                if state is not None and state.type in _CANCELLED:
                    here.cancel()
                    return

    listener = Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        ended.set()
        listener.join()
