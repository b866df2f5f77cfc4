"""One run at a time in a folder; and the end of a run, whenever it comes, is reported."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any
from uuid import UUID

import pytest
from filelock import FileLock
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import CancelledRun, FailedRun
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect_server import PrefectServer
from processes import FOREVER_S, SLEEP, WITHIN_S, alive, python, wait_until

from fer_pipeline import repair as repair_module
from fer_pipeline.errors import DvcBusyError, FlowError, StoppedError, TransientFlowError
from flows import session as module
from flows.runs import settle
from flows.session import LOCK, Session, run_in_session
from flows.slots import take_lock

_AFTER_ITS_SESSION = """
import os, sys
from pathlib import Path
from prefect import flow
from flows.session import run_in_session
from prefect.states import Completed

@flow(name="dies")
def dies():
    run_in_session(lambda here: Completed(), Path("."))
    os.kill(os.getpid(), {signal})

dies()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that a session takes for a DVC project."""
    monkeypatch.setattr(module, "POLL_S", 0.02)
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What sessions log outside a flow run."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger = logging.Logger("run", logging.INFO)
    logger.addHandler(Keep())
    monkeypatch.setattr(module, "get_run_logger", lambda: logger)
    return messages


def new_session(folder: Path, name: str = "a run", wait_s: float = 0.0) -> Session:
    here = Session(folder, wait_s)
    here.name = name
    return here


def test_a_second_run_is_refused_with_the_name_of_the_first(
    folder: Path, logged: list[str]
) -> None:
    with new_session(folder, "flow run 'busy-bee'").exclusive():
        for _ in range(2):  # the lock is still the first one's
            with (
                pytest.raises(
                    TransientFlowError, match=f"^flow run 'busy-bee' works in {folder}: wait until"
                ),
                new_session(folder).exclusive(),
            ):
                raise AssertionError
    assert logged == []
    with new_session(folder).exclusive():
        pass


def test_a_second_run_waits_for_the_first(folder: Path, logged: list[str]) -> None:
    entered = Event()

    def second() -> None:
        with new_session(folder, "second", wait_s=60).exclusive():
            entered.set()

    with new_session(folder, "first").exclusive():
        thread = Thread(target=second)
        thread.start()
        wait_until(lambda: logged, what="the second run waits")
        assert not entered.wait(0.2)  # ten attempts
    assert entered.wait(WITHIN_S)
    thread.join()
    assert len(logged) == 1
    assert logged[0].startswith(f"waiting to try again: first works in {folder}: ")


def test_a_run_that_waits_ends_when_it_is_cancelled(folder: Path, logged: list[str]) -> None:
    second = new_session(folder, "second", wait_s=FOREVER_S)
    with new_session(folder, "first").exclusive():
        stopper = Timer(0.1, second.processes.close)
        stopper.start()
        with pytest.raises(StoppedError), second.exclusive():
            raise AssertionError
        stopper.join()


def test_the_time_that_attempts_take_counts_as_waiting(
    folder: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def five_seconds() -> None:
        clock.append(clock[-1] + 5)
        raise TransientFlowError("DVC works there")

    monkeypatch.setattr("time.monotonic", lambda: clock[-1])
    with pytest.raises(TransientFlowError):
        new_session(folder, wait_s=10).when_free(five_seconds)
    assert clock[-1] == 10


def test_an_error_in_the_block_lets_the_next_run_in(folder: Path, logged: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), new_session(folder).exclusive():
        raise ZeroDivisionError
    with new_session(folder).exclusive():
        pass


def test_every_command_of_the_run_holds_the_lock(folder: Path, logged: list[str]) -> None:
    here = new_session(folder)
    with here.exclusive():
        assert len(here.processes.locks) == 1
        assert take_lock(folder / LOCK, "another") is None
    lock = take_lock(folder / LOCK, "another")
    assert lock is not None
    lock.close()


def test_what_a_killed_dvc_left_torn_is_repaired_first(folder: Path, logged: list[str]) -> None:
    torn = folder / "dvc.lock"
    torn.write_text("schema: '2.0'\nstages:\n  ing")
    with new_session(folder).exclusive():
        assert not torn.exists()
        torn.write_text("schema: '2.0'\nstages:\n  ing")  # being written by a command of the run
        with pytest.raises(TransientFlowError), new_session(folder).exclusive():
            raise AssertionError
        assert torn.exists()
    assert logged == ["dvc.lock was torn: removed, DVC writes it again from its run-cache"]


def test_a_dvc_command_at_work_is_waited_for_and_the_folder_is_released(
    folder: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair_module, "_LOCK_TIMEOUT_S", 0.1)
    lock = FileLock(folder / ".dvc" / "tmp" / "lock", is_singleton=False, thread_local=False)
    with (
        lock,
        pytest.raises(DvcBusyError, match=r"^a DVC command runs in "),
        new_session(folder).exclusive(),
    ):
        raise AssertionError
    lock.acquire()
    release = Thread(target=lambda: wait_until(lambda: len(logged) == 1) and lock.release())
    logged.clear()
    release.start()
    with new_session(folder, wait_s=60).exclusive():
        pass
    release.join()
    assert logged == [
        f"waiting to try again: a DVC command runs in {folder}: wait until it has ended"
    ]


def test_a_folder_without_dvc_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    with (
        pytest.raises(FlowError, match=f"^{tmp_path} is no DVC project: give the folder of dvc"),
        new_session(tmp_path).exclusive(),
    ):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_released_when_no_command_is_left(
    folder: Path, logged: list[str], mark: str
) -> None:
    def left_when_free() -> int:
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return len(alive(mark))

    here = new_session(folder)
    with ThreadPoolExecutor() as pool:
        with here.exclusive():
            child = pool.submit(here.run, python(SLEEP, mark))
            wait_until(lambda: "ready" in logged, what="the command runs")
            left = pool.submit(left_when_free)
        with pytest.raises(StoppedError):
            child.result(timeout=WITHIN_S)
    assert left.result(timeout=WITHIN_S) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "name", "raised"),
    [(StoppedError, "Cancelled", CancelledRun), (FlowError, "Failed", FailedRun)],
)
def test_a_task_ends_as_cancelled_where_its_run_ends_and_else_as_failed(
    error: type[FlowError],
    name: str,
    raised: type[Exception],
    folder: Path,
    server: PrefectServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("prefect.task_runs"), "handlers", [caplog.handler])

    def work() -> None:
        raise error("that is why")

    @flow(name="one task", flow_run_name=f"ends as {name}")
    def one_task() -> None:
        Session(folder).task("ask upstream", work)(return_state=True).result()

    settings = {PREFECT_API_URL: server.api, PREFECT_LOGGING_TO_API_ENABLED: False}
    with temporary_settings(settings), pytest.raises(raised, match="that is"):
        one_task()

    assert f"Finished in state {name}" in caplog.text
    assert "NoneType: None" not in caplog.text
    (run,) = server.flow_runs(name=f"ends as {name}")
    ended = {"name": ""}  # Prefect sends the state of a task a little later
    wait_until(lambda: server.tasks(run["id"]).get("ask upstream", ended)["name"] == name, name)


@pytest.mark.slow
def test_a_run_that_the_server_has_ended_keeps_the_state_that_it_gave(
    folder: Path, server: PrefectServer
) -> None:
    def work(here: Session) -> State[None]:
        given = {"type": "FAILED", "message": "it was paused and never resumed"}
        server.ask(f"/flow_runs/{here.run_id}/set_state", state=given, force=True)
        while True:
            here.processes.wait(0.1)

    @flow(name="ended by the server")
    def ended() -> State[None]:
        return run_in_session(work, folder)

    settings = {PREFECT_API_URL: server.api, PREFECT_LOGGING_TO_API_ENABLED: False}
    with temporary_settings(settings):
        state = ended(return_state=True)

    assert (state.type.value, state.message) == ("FAILED", "it was paused and never resumed")


@pytest.mark.slow
def test_a_flow_that_is_killed_on_its_last_steps_is_told_of(
    tmp_path: Path, root: Path, server: PrefectServer
) -> None:
    before = {run["id"] for run in server.flow_runs()}
    done = subprocess.run(
        [sys.executable, "-c", _AFTER_ITS_SESSION.replace("{signal}", str(int(signal.SIGKILL)))],
        cwd=tmp_path,
        env=os.environ | server.env() | {"PYTHONPATH": str(root)},
        check=False,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (run,) = [run for run in server.flow_runs() if run["id"] not in before]

    wait_until(lambda: server.state(run["id"])["name"] == "Crashed", "the run is known dead")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("states", "name"),
    [(["RUNNING", "CANCELLING"], "Cancelled"), (["RUNNING", "COMPLETED"], "Completed")],
)
def test_a_run_that_was_cancelled_just_before_its_end_is_closed(
    states: list[str], name: str, server: PrefectServer
) -> None:
    flow = server.ask("/flows/", name="pipeline")
    run: dict[str, Any] = server.ask("/flow_runs/", flow_id=flow["id"], state={"type": "PENDING"})
    for state in states:
        server.ask(f"/flow_runs/{run['id']}/set_state", state={"type": state})
    with temporary_settings({PREFECT_API_URL: server.api}):
        with get_client(sync_client=True) as client:
            found = client.read_flow_run(UUID(run["id"])).state
        assert found is not None

        assert settle(found).name == name

    assert server.state(run["id"])["name"] == name
