"""How a stage ends: its exit status, its one line, and what a listener is told of it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from fer_pipeline.errors import DataError, SourceUnreachableError
from fer_pipeline.events import VARIABLE, Listener
from fer_pipeline.params.schema import Params
from fer_pipeline.registry.tracking import connect
from fer_pipeline.stages import ingest, launch, train
from fer_pipeline.threads import VARIABLE as THREADS

Read = Callable[[], list[dict[str, Any]]]
Stage = Callable[[Callable[[Params], None]], int]


@pytest.fixture
def read(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """A folder with the committed params, and somebody who listens."""
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "events.jsonl"))
    monkeypatch.delenv("FER_DEBUG", raising=False)
    monkeypatch.setattr(sys, "argv", ["stage"])
    return Listener(tmp_path / "events.jsonl").read


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Runs stage `ingest` with other work."""

    def run(work: Callable[[Params], None]) -> int:
        monkeypatch.setattr(ingest, "ingest", work)
        monkeypatch.setattr(sys, "argv", ["stages", "ingest"])
        return launch.main()

    return run


def test_a_stage_that_is_done_tells_no_error(stage: Stage, read: Read, params: Params) -> None:
    seen: list[Params] = []
    assert stage(seen.append) == 0
    assert seen == [params]
    assert read() == []


def fail(error: BaseException) -> Callable[[Params], None]:
    def work(_: Params) -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "transient"), [(DataError("torn"), False), (SourceUnreachableError("away"), True)]
)
def test_an_error_is_told_with_whether_it_may_pass(
    stage: Stage, error: Exception, transient: bool, read: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage(fail(error)) == 1
    assert capsys.readouterr().err == f"error: {error}\n"
    assert read() == [{"event": "error", "message": str(error), "transient": transient}]


def test_an_mlflow_that_is_away_may_come_back(
    stage: Stage, read: Read, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:  # nobody listens there
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert stage(lambda params: print(connect(params.registry.experiment))) == 1
    (event,) = read()
    assert event["transient"] is True
    assert "can't be reached" in event["message"]
    assert capsys.readouterr().err == f"error: {event['message']}\n"


def test_bad_params_do_not_pass(stage: Stage, read: Read) -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("seed: 0", "seed: many", 1))
    assert stage(fail(AssertionError())) == 1
    (event,) = read()
    assert event["transient"] is False
    assert event["message"].startswith("params.yaml: seed is 'many'")


def test_an_unknown_backbone_does_not_pass(
    stage: Stage, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["stages", "train", "vgg16"])
    assert launch.main() == 1
    (event,) = read()
    assert event["message"].startswith("params.yaml has no backbone 'vgg16': choose among resnet50")
    assert event["transient"] is False


@pytest.mark.parametrize("name", launch.STAGES)
def test_a_key_that_is_no_backbone_ends_every_stage_before_it_begins(
    name: str, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = YAML(typ="safe").load(Path("params.yaml").read_text())
    key = "resnet50; touch ran"
    content["backbones"] = {key: content["backbones"]["resnet50"]}
    YAML().dump(content, Path("params.yaml"))
    monkeypatch.setattr(sys, "argv", ["stages", name])
    monkeypatch.setenv("DVC_STAGE", f"{name}@{key}")
    assert launch.main() == 1
    (event,) = read()
    assert event["message"].startswith(f"backbones.{key} is not a known backbone: choose among")


@pytest.mark.parametrize(("arguments", "running"), [(["resnet101"], ""), ([], "train@resnet101")])
def test_a_known_backbone_is_passed_on(
    arguments: list[str], running: str, read: Read, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["stages", "train", *arguments])
    monkeypatch.setenv("DVC_STAGE", running)
    seen: list[tuple[Params, str]] = []
    monkeypatch.setattr(train, "train", lambda *given: seen.append(given))
    assert launch.main() == 0
    assert seen == [(params, "resnet101")]
    assert read() == []


@pytest.fixture
def threads_of(
    root: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, int], str | None]:
    """Runs stage `train` for a backbone beside so many free cores, and gives its threads."""
    shutil.copy2(root / "dvc.yaml", "dvc.yaml")
    shutil.copytree(root / "locks", "locks")
    Path("data/prepared").mkdir(parents=True)
    for name in ("train", "val"):
        Path(f"data/prepared/{name}.npz").write_text(f"the images of {name}")
    found: list[str | None] = []
    monkeypatch.setattr(train, "train", lambda *_: found.append(os.environ.get(THREADS)))

    def run(backbone: str, free: int) -> str | None:
        with monkeypatch.context() as patch:
            patch.setattr(launch, "choose_threads", lambda processes: free)
            patch.setattr(sys, "argv", ["stages", "train", backbone])
            patch.setitem(os.environ, THREADS, "")
            del os.environ[THREADS]
            assert launch.main() == 0
        return found[-1]

    return run


def test_threads_are_chosen_once_for_the_same_inputs(
    threads_of: Callable[[str, int], str | None],
) -> None:
    assert threads_of("resnet50", 2) == "2"
    assert threads_of("resnet50", 1) == "2"
    assert threads_of("resnet101", 1) == "1"
    Path("data/prepared/val.npz").write_text("other images")
    assert threads_of("resnet50", 1) == "1"


def test_a_number_of_threads_in_params_is_not_chosen(
    threads_of: Callable[[str, int], str | None],
) -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("  threads: auto", "  threads: 3", 1))
    assert threads_of("resnet50", 1) == "3"
    assert not Path("checkpoints").exists()


def test_threads_that_the_user_has_set_stay(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["stages", "train", "resnet50"])
    monkeypatch.setenv(THREADS, "7")
    seen: list[str] = []
    monkeypatch.setattr(train, "train", lambda *_: seen.append(os.environ[THREADS]))
    assert launch.main() == 0
    assert (seen, read()) == (["7"], [])


def test_an_error_is_told_even_where_its_traceback_is_wanted(
    stage: Stage, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_DEBUG", "1")
    with pytest.raises(DataError, match="torn"):
        stage(fail(DataError("torn")))
    assert [event["message"] for event in read()] == ["torn"]


def test_an_interruption_is_no_error(
    stage: Stage, read: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage(fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert read() == []
