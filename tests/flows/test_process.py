"""Commands of a flow: read while they run, ended with it, and holding its locks until then."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from processes import SLEEP, STUBBORN, alive, python, wait_until

from fer_pipeline.errors import StoppedError
from flows import process as module
from flows.process import Processes
from flows.slots import take_lock

pytestmark = pytest.mark.slow


def ignore(_: str) -> None:
    """Drop a line of output."""


def test_lines_of_both_streams_arrive_in_order(tmp_path: Path, mark: str) -> None:
    code = "import sys\nfor n in range(3): print(n, flush=True); print(-n, file=sys.stderr)"
    lines: list[str] = []
    with closing(Processes(tmp_path)) as here:
        assert here.run(python(code, mark), lines.append).status == 0
    assert lines == ["0", "0", "1", "-1", "2", "-2"]


def test_lines_arrive_while_the_command_runs(tmp_path: Path, mark: str) -> None:
    # Without a flush: a child must not keep its words until a buffer is full. It answers only
    # to what its first line leads to.
    code = """
import pathlib, time
print('first')
while not pathlib.Path('heard').exists():
    time.sleep(0.01)
print('last')
"""
    lines: list[str] = []

    def on_line(text: str) -> None:
        lines.append(text)
        (tmp_path / "heard").touch()

    with closing(Processes(tmp_path)) as here:
        # Not isolated, or it would not see the environment.
        assert (
            here.run([sys.executable, "-S", "-c", code, mark], on_line, deadline_s=15).status == 0
        )
    assert lines == ["first", "last"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (r"write(b'\xff\xfe \xc3\xa4\n')", ["\ufffd\ufffd ä"]),
        ("write(b'x' * 3_000_000 + b'\\n' + b'end')", ["x" * 3_000_000, "end"]),
        (r"write(b'10%\r20%\r\n\n  \nend  \n')", ["10%", "20%", "end"]),
        ("write(b'')", []),
    ],
    ids=["no UTF-8", "long, and no end", "a bar", "nothing"],
)
def test_whatever_a_child_prints_can_be_read(
    code: str, expected: list[str], tmp_path: Path, mark: str
) -> None:
    lines: list[str] = []
    with closing(Processes(tmp_path)) as here:
        command = python(f"import sys; sys.stdout.buffer.{code}", mark)
        assert here.run(command, lines.append, deadline_s=30).status == 0
    assert lines == expected


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(3)", 3), (SLEEP, 124)])
def test_the_status_is_the_supervisors(code: str, status: int, tmp_path: Path, mark: str) -> None:
    with closing(Processes(tmp_path)) as here:
        assert (
            here.run(python(code, mark), ignore, deadline_s=60 if status == 3 else 0.3).status
            == status
        )


def test_commands_run_side_by_side(tmp_path: Path, mark: str) -> None:
    # Each ends only when all have begun.
    code = """
import pathlib, sys, time
pathlib.Path(f"began-{sys.argv[2]}").touch()
while len(list(pathlib.Path().glob("began-*"))) < 4:
    time.sleep(0.01)
print(sys.argv[2])
"""
    lines: list[str] = []
    with ThreadPoolExecutor() as pool, closing(Processes(tmp_path)) as here:
        ends = [
            pool.submit(here.run, [*python(code, mark), str(n)], lines.append, deadline_s=20)
            for n in range(4)
        ]
        assert [end.result().status for end in ends] == [0, 0, 0, 0]
    assert sorted(lines) == ["0", "1", "2", "3"]


def test_a_folder_may_have_spaces(tmp_path: Path, mark: str) -> None:
    folder = tmp_path / "a folder, with 'more'"
    folder.mkdir()
    lines: list[str] = []
    with closing(Processes(folder)) as here:
        here.run(python("import os; print(os.getcwd())", mark), lines.append)
    assert lines == [str(folder)]


def test_the_environment_is_this_ones_and_the_given(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_OUTER", "outer")
    monkeypatch.setenv("FER_BOTH", "outer")
    code = "import os; print(os.environ['FER_OUTER'], os.environ['FER_BOTH'])"
    lines: list[str] = []
    with closing(Processes(tmp_path)) as here:
        here.run(python(code, mark), lines.append, env={"FER_BOTH": "given"})
    assert lines == ["outer given"]


def test_programs_of_this_interpreters_folder_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("python", "only-here"):
        (other / name).write_text(f"#!/bin/sh\necho {name} of the other folder\n")
        (other / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(other), prepend=":")
    lines: list[str] = []
    with closing(Processes(tmp_path)) as here:
        here.run(["python", "-c", "import sys; print(sys.prefix)"], lines.append)
        here.run(["only-here"], lines.append)
    assert lines == [sys.prefix, "only-here of the other folder"]


def test_close_ends_all_and_nothing_starts_after(tmp_path: Path, mark: str) -> None:
    with ThreadPoolExecutor() as pool, closing(Processes(tmp_path)) as here:
        said: list[str] = []
        ends = [pool.submit(here.run, python(SLEEP, mark), said.append) for _ in range(3)]
        wait_until(lambda: len(said) == 3)
        assert not here.closed.is_set()
        here.close()
        assert alive(mark) == []
        assert here.closed.is_set()
        for end in ends:
            with pytest.raises(StoppedError, match="stopped, because the run is ending"):
                end.result(5)
        with pytest.raises(StoppedError, match="not started, because the run is ending: never"):
            here.run(["never"], ignore)


def test_the_end_of_the_block_ends_all(tmp_path: Path, mark: str) -> None:
    with ThreadPoolExecutor() as pool:
        said: list[str] = []
        with pytest.raises(KeyboardInterrupt), closing(Processes(tmp_path)) as here:  # noqa: PT012
            end = pool.submit(here.run, python(SLEEP, mark), said.append)
            wait_until(lambda: said)
            raise KeyboardInterrupt
        assert alive(mark) == []
        with pytest.raises(StoppedError):
            end.result(5)


def test_a_log_that_fails_ends_its_command(tmp_path: Path, mark: str) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("no log")

    with closing(Processes(tmp_path)) as here:
        with pytest.raises(RuntimeError, match="no log"):
            here.run(python(SLEEP, mark), fail)
        assert alive(mark) == []


HOLDER = """
import sys
from pathlib import Path
from flows import process
from flows.slots import take_lock

process.GRACE_S = 1.0
here = process.Processes(Path())
lock = take_lock(Path("held.lock"), "the flow")
here.locks.append(lock.fileno())
here.run(sys.argv[1:], lambda text: print(text, flush=True))
"""


def test_a_lock_is_held_until_the_child_of_a_killed_flow_is_gone(
    tmp_path: Path, mark: str, root: Path
) -> None:
    flow = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *python(STUBBORN, mark)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with flow:
        assert flow.stdout is not None
        assert flow.stdout.readline() == "ready\n"
        flow.kill()
    path = tmp_path / "held.lock"
    assert take_lock(path, "at once") is None  # the child ignores SIGTERM, and has its grace
    assert path.read_text() == "the flow"
    wait_until(lambda: take_lock(path, "the next")).close()
    assert alive(mark) == []


def test_end_waits_for_a_child_with_its_grace(tmp_path: Path, mark: str) -> None:
    with (tmp_path / "log").open("w+") as log:
        child = module.start_supervised(
            python(STUBBORN, mark), tmp_path, {}, "--grace-s", "0.2", stdout=log
        )
        wait_until(lambda: (tmp_path / "log").read_text() == "ready\n")
        module.end_supervised(child)
    assert child.returncode == 143
    assert alive(mark) == []
