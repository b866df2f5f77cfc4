"""What every flow does around its work: its end, of whatever kind, is seen to and reported."""

from __future__ import annotations

import atexit
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
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled

from flows.process import Children
from flows.workspace import Patience, alone_in

_ASK_EVERY_S = 2.0
_JOIN_S = 1.0
_GUARDIAN = Path(__file__).with_name("guardian.py")
_CANCELLED = {StateType.CANCELLING, StateType.CANCELLED}


class Session:
    """One flow run at work in a folder.

    Attributes:
        folder: of `dvc.yaml`.
        who: the run, in words.
        children: runs its commands; they have ended when the session ends.
        patience: with others who work in the folder.
    """

    def __init__(self, folder: Path, wait_s: float) -> None:
        self.folder = folder
        self.who = f"flow run '{flow_run.get_name()}'"
        self.children = Children(folder)
        self.patience = Patience(wait_s, get_run_logger().info, self.children.rest)
        self._cancelled = Event()

    @contextmanager
    def alone(self) -> Iterator[int]:
        """Hold the folder, and let it go when nothing of this run is at work there any more.

        Gives the descriptor of its lock.

        Raises:
            BusyError: another run, or a DVC command, works there.
            FlowError: it is no DVC project.
            StoppedError: the run was cancelled while it waited.
        """
        with alone_in(self.folder, self.who, self.patience) as held, self.children:
            yield held

    def ended_early(self) -> State[None] | None:
        """The state to end in, if somebody has cancelled the run."""
        return cancelled() if self._cancelled.is_set() else None

    def cancel(self) -> None:
        self._cancelled.set()
        self.children.stop()


def cancelled() -> State[None]:
    """The state of a run that was stopped; the server refuses all others after Cancelling."""
    return Cancelled(message="The run was cancelled.")


@contextmanager
def session(folder: Path, wait_s: float = 0.0) -> Iterator[Session]:
    """Work in a folder until the end, a cancellation, or the death of this process.

    Args:
        folder: of `dvc.yaml`.
        wait_s: how long to wait for others who work there.
    """
    run_id = UUID(flow_run.get_id())
    here = Session(folder, wait_s)
    _start_guardian(run_id)
    with _listening(run_id, here), here.children:
        yield here


def _start_guardian(run_id: UUID) -> None:
    """A process that reports this one's death, if it is killed before it ends by itself.

    Not only if it dies within the session: the final state is told to the server after that.
    """
    guardian = subprocess.Popen(
        [sys.executable, str(_GUARDIAN), str(run_id)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # It passes over a broken pipe: the guardian may have been killed.
    atexit.register(guardian.communicate, b".")


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
                if state is not None and state.type in _CANCELLED and not ended.is_set():
                    here.cancel()
                    return

    listener = Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        ended.set()
        listener.join(_JOIN_S)  # not for as long as a server that is away is asked again
