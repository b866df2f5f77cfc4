"""The end of a run is told to the server, whenever it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_server import PrefectServer
from processes import SLEEP, alive, python, wait_until

from flows.__main__ import _final
from flows.errors import StoppedError
from flows.locks import Lock
from flows.session import Session

_AFTER_ITS_SESSION = """
import os, sys
from pathlib import Path
from prefect import flow
from flows.session import session

@flow(name="dies")
def dies():
    with session(Path(".")) as here:
        print(here.who, flush=True)
    os.kill(os.getpid(), {signal})

dies()
"""


def test_the_folder_is_let_go_when_no_child_is_left(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    left: list[int] = []
    release = Lock.release

    def look_and_release(lock: Lock) -> None:
        left.append(len(alive(mark)))
        release(lock)

    monkeypatch.setattr(Lock, "release", look_and_release)
    with disable_run_logger():
        here = Session(tmp_path, 0)
    with ThreadPoolExecutor() as pool:
        with here.alone():
            lines: list[str] = []
            child = pool.submit(here.children.run, python(SLEEP, mark), lines.append)
            wait_until(lambda: lines, what="the child runs")
        with pytest.raises(StoppedError):
            child.result(timeout=10)
    assert left == [0]


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
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (run,) = [run for run in server.flow_runs() if run["id"] not in before]

    wait_until(lambda: server.state(run["id"])["name"] == "Crashed", 30, "the run is known dead")


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

        assert _final(found).name == name

    assert server.state(run["id"])["name"] == name
