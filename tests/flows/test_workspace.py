"""One run at a time in a folder, which is mended before it starts."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread, Timer

import pytest
from filelock import FileLock

from fer_pipeline import repair as repair_module
from flows import workspace as module
from flows.errors import BusyError, FlowError, StoppedError
from flows.locks import Lock
from flows.process import Children
from flows.workspace import Patience, alone_in


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.02)
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    return tmp_path


def test_a_second_run_is_refused_with_the_name_of_the_first(folder: Path) -> None:
    said: list[str] = []
    with alone_in(folder, "flow run 'busy-bee'", Patience(0, said.append)):
        with (
            pytest.raises(BusyError, match=f"^flow run 'busy-bee' works in {folder}: wait until"),
            alone_in(folder, "another", Patience(0, said.append)),
        ):
            raise AssertionError
        # It is the first one's still.
        with pytest.raises(BusyError), alone_in(folder, "another", Patience(0, said.append)):
            raise AssertionError
    assert said == []
    with alone_in(folder, "another", Patience(0, said.append)):
        pass


def test_a_second_run_waits_for_the_first_and_says_so_once(folder: Path) -> None:
    said: list[str] = []
    entered, waits = Event(), Event()

    def say(text: str) -> None:
        said.append(text)
        waits.set()

    def second() -> None:
        with alone_in(folder, "second", Patience(30, say)):
            entered.set()

    with alone_in(folder, "first", Patience(0, print)):
        thread = Thread(target=second)
        thread.start()
        assert waits.wait(5)
        assert not entered.wait(0.2)  # ten looks
    assert entered.wait(5)
    thread.join()
    assert len(said) == 1
    assert said[0].startswith(f"waiting: first works in {folder}: ")


def test_who_waits_leaves_when_its_run_ends(folder: Path) -> None:
    children = Children(folder)
    with alone_in(folder, "first", Patience(0, print)):
        # As the listener does when somebody cancels the run.
        stopper = Timer(0.1, children.stop)
        stopper.start()
        with (
            pytest.raises(StoppedError),
            alone_in(folder, "second", Patience(60, print, children.rest)),
        ):
            raise AssertionError
        stopper.join()


def test_an_error_in_the_block_lets_the_next_one_in(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), alone_in(folder, "first", Patience(0, print)):
        raise ZeroDivisionError
    with alone_in(folder, "second", Patience(0, print)):
        pass


def test_the_descriptor_keeps_others_out(folder: Path) -> None:
    lock = Lock(folder / ".dvc" / "tmp" / "fer-flow.lock")
    with alone_in(folder, "first", Patience(0, print)) as held:
        assert held > 2
        assert not lock.take("another")
    assert lock.take("another")
    lock.release()


def test_what_a_killed_dvc_left_torn_is_mended_first(folder: Path) -> None:
    (folder / "dvc.lock").write_text("schema: '2.0'\nstages:\n  ing")
    said: list[str] = []
    with alone_in(folder, "run", Patience(0, said.append)):
        assert not (folder / "dvc.lock").exists()
    assert said == ["dvc.lock was torn: removed, DVC writes it again from its run-cache"]


def test_nothing_is_mended_beneath_a_run(folder: Path) -> None:
    with alone_in(folder, "first", Patience(0, print)):
        (folder / "dvc.lock").write_text("schema: '2.0'\nstages:\n  ing")  # being written
        with pytest.raises(BusyError), alone_in(folder, "second", Patience(0, print)):
            raise AssertionError
        assert (folder / "dvc.lock").exists()


def test_a_dvc_command_at_work_is_busy_and_the_folder_is_let_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair_module, "_LOCK_TIMEOUT_S", 0.1)
    with (
        FileLock(folder / ".dvc" / "tmp" / "lock", is_singleton=False),
        pytest.raises(BusyError, match="a DVC command is running here: wait until it has ended"),
        alone_in(folder, "run", Patience(0, print)),
    ):
        raise AssertionError
    with alone_in(folder, "run", Patience(0, print)):
        pass


def test_a_short_dvc_command_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair_module, "_LOCK_TIMEOUT_S", 0.1)
    said: list[str] = []
    lock = FileLock(folder / ".dvc" / "tmp" / "lock", is_singleton=False, thread_local=False)
    lock.acquire()

    def say(text: str) -> None:
        said.append(text)
        lock.release()

    with alone_in(folder, "run", Patience(30, say)):
        pass
    assert said == ["waiting: a DVC command is running here: wait until it has ended"]


def test_a_folder_without_dvc_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    with (
        pytest.raises(FlowError, match=f"^{tmp_path} is no DVC project: give the folder of dvc"),
        alone_in(tmp_path, "run", Patience(0, print)),
    ):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []
