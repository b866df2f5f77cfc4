"""The graph as DVC itself reads it, in real projects with stages of one line."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from dvc.repo import Repo
from processes import WITHIN_S, wait_until

from fer_pipeline.errors import DvcBusyError, FlowError
from flows.graph import Meta, Stage, closure, downstream, parallel_slots, read_status

PIPELINE = """
stages:
  evaluate:
    cmd: cat out/* > score
    deps: [prepared, out/a, out/b, out/c]
    outs: [score]
  train:
    foreach: ${nets}
    do:
      desc: ${key} for ${item} epochs
      cmd: mkdir -p out && cp prepared out/${key}
      meta: {slot: true, deadline_h: 1.5}
      deps: [prepared]
      params: ["nets.${key}"]
      outs: ["out/${key}"]
  prepare:
    cmd: cp raw prepared
    meta: {deadline_h: 1}
    deps: [raw]
    outs: [prepared]
  apart:
    cmd: echo apart > apart
    outs: [apart]
"""
TRAINS = [f"train@{key}" for key in "abc"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC project after `dvc repro`; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("graph") / "project"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DVC's own
        patch.setenv("DVC_NO_ANALYTICS", "true")
        patch.setenv("DVC_SITE_CACHE_DIR", str(folder.parent / "site"))
        Repo.init(str(folder), no_scm=True).close()
        (folder / "dvc.yaml").write_text(PIPELINE)
        (folder / "params.yaml").write_text("nets: {a: 1, b: 2, c: 3}\n")
        (folder / "raw").write_text("faces\n")
        patch.chdir(folder)
        with Repo(str(folder)) as repo:
            repo.reproduce()
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    return Path(shutil.copytree(finished, tmp_path / "a project", symlinks=True))


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_stages_come_after_their_parents_with_what_dvc_yaml_says(folder: Path) -> None:
    graph = read_status(folder).graph
    assert set(graph) == {"prepare", *TRAINS, "evaluate", "apart"}
    names = list(graph)
    for name, stage in graph.items():
        assert stage.name == name
        assert all(names.index(parent) < names.index(name) for parent in stage.parents)
    assert graph["prepare"] == Stage("prepare", (), Meta(deadline_h=1.0))
    prepared = hashlib.md5((folder / "prepared").read_bytes(), usedforsecurity=False).hexdigest()
    assert graph["train@b"] == Stage(
        "train@b",
        ("prepare",),
        Meta(slot=True, deadline_h=1.5),
        "b for 2 epochs",
        {"prepared": prepared},
        ("nets.b",),
    )
    assert graph["evaluate"] == Stage("evaluate", ("prepare", *TRAINS))
    assert graph["apart"] == Stage("apart")


def test_a_finished_project_has_nothing_changed(folder: Path) -> None:
    assert read_status(folder).changed == frozenset()


def test_a_fourth_entry_is_one_more_stage_that_is_out_of_date(folder: Path) -> None:
    replace(folder / "params.yaml", "c: 3", "c: 3, d: 4")
    status = read_status(folder)
    assert status.changed == {"train@d"}
    assert status.graph["train@d"].parents == ("prepare",)
    assert status.graph["train@d"].description == "d for 4 epochs"
    assert parallel_slots(status.graph) == 4


def test_what_changed_is_told_without_what_follows(folder: Path) -> None:
    (folder / "raw").write_text("more faces\n")
    status = read_status(folder)
    assert status.changed == {"prepare"}
    stale = downstream(status.graph, status.changed)
    assert stale == {"prepare", *TRAINS, "evaluate"}
    (folder / "raw").write_text("faces\n")
    replace(folder / "params.yaml", "b: 2", "b: 20")
    assert read_status(folder).changed == {"train@b"}


def test_an_out_that_is_missing_is_a_change(folder: Path) -> None:
    (folder / "score").unlink()
    assert read_status(folder).changed == {"evaluate"}


def test_it_does_not_matter_where_one_stands(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "raw").write_text("more faces\n")
    (tmp_path / "link").symlink_to(folder)
    expected = read_status(folder)
    assert expected.changed == {"prepare"}
    (folder / "out" / "deeper").mkdir()
    for place, path in (
        (folder, Path()),
        (folder / "out" / "deeper", Path("../..")),
        (tmp_path, Path("a project")),
        (tmp_path, Path("link")),
        (Path("/"), folder),
    ):
        monkeypatch.chdir(place)
        assert read_status(path) == expected, place


def test_a_stage_of_another_file_has_its_path_in_its_name(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "dvc.yaml").write_text(
        "stages: {look: {cmd: cat ../score, deps: [../score]}}\n"
    )
    status = read_status(folder)
    assert status.graph["more/dvc.yaml:look"].parents == ("evaluate",)
    assert status.changed == {"more/dvc.yaml:look"}


def test_files_that_dvc_only_keeps_are_no_stages(folder: Path) -> None:
    (folder / "raw.dvc").write_text("outs:\n- path: raw\n  md5: 0123456789abcdef0123456789abcdef\n")
    status = read_status(folder)
    assert len(status.graph) == 6
    assert status.graph["prepare"].parents == ()


def test_the_default_remote_is_told(folder: Path) -> None:
    assert read_status(folder).remote is False
    (folder / ".dvc" / "config.local").write_text(
        "[core]\n    remote = store\n['remote \"store\"']\n    url = /nowhere\n"
    )
    assert read_status(folder).remote is True


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ("{slots: true}", "meta.slots of prepare is True: Extra inputs are not permitted (known"),
        ("3", "meta of prepare is 3: "),
        ("{slot: 'no'}", "meta.slot of prepare is 'no': Input should be a valid boolean"),
        ("{deadline_h: soon}", "meta.deadline_h of prepare is 'soon': Input should be a valid num"),
        ("{deadline_h: 0}", "meta.deadline_h of prepare is 0: Input should be greater than 0"),
        ("{deadline_h: true}", "meta.deadline_h of prepare is True: Input should be a valid num"),
    ],
)
def test_a_meta_that_the_flows_do_not_know_is_refused(
    meta: str, message: str, folder: Path
) -> None:
    replace(folder / "dvc.yaml", "meta: {deadline_h: 1}", f"meta: {meta}")
    with pytest.raises(FlowError) as caught:
        read_status(folder)
    assert str(caught.value).startswith(f"dvc.yaml: {message}")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("dvc.yaml", "stages: [\n", "YAML file structure is corrupted"),
        ("dvc.yaml", "stages: {a: {outs: [x]}}\n", "validation failed"),
        ("dvc.yaml", "stages: {a: {cmd: a, outs: [x]}, b: {cmd: b, outs: [x]}}\n", "output 'x'"),
        (
            "dvc.yaml",
            "stages: {a: {cmd: a, deps: [x], outs: [y]}, b: {cmd: b, deps: [y], outs: [x]}}\n",
            "both a dependency and an output",
        ),
        ("params.yaml", "nets: [\n", "YAML file structure is corrupted"),
        ("params.yaml", "other: 1\n", "Could not find 'nets'"),
        ("dvc.lock", "schema: '2.0'\nstag", "YAML file structure is corrupted"),
        (".dvc/config", "[core\n", "config"),
    ],
)
def test_what_dvc_can_not_read_is_one_line(
    file: str, text: str, message: str, folder: Path
) -> None:
    (folder / file).write_text(text)
    with pytest.raises(FlowError) as caught:
        read_status(folder)
    said = str(caught.value)
    assert said.startswith("DVC can't read the graph: ")
    assert message in said.removeprefix("DVC can't read the graph: ")
    assert "\n" not in said


def test_a_folder_without_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FlowError, match=f"^{tmp_path} has no dvc.yaml: give the project's folder"):
        read_status(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(FlowError, match="you are not inside of a DVC repository"):
        read_status(tmp_path)


@pytest.mark.slow
def test_a_dvc_command_at_work_is_busy(folder: Path) -> None:
    wait = "touch began; while [ ! -e go ]; do sleep 0.05; done; cp raw prepared"
    replace(folder / "dvc.yaml", "cmd: cp raw prepared", f"cmd: {wait}")
    dvc = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "--quiet", "prepare"], cwd=folder)
    try:
        wait_until((folder / "began").exists)
        with pytest.raises(DvcBusyError, match=f"^a DVC command runs in {folder}: wait until it"):
            read_status(folder)
    finally:
        (folder / "go").touch()
        assert dvc.wait(WITHIN_S) == 0
    assert read_status(folder).changed == frozenset()


SLOT = Meta(slot=True)
GRAPH = {
    "ingest": Stage("ingest"),
    "prepare": Stage("prepare", ("ingest",)),
    "train@a": Stage("train@a", ("prepare",), SLOT),
    "train@b": Stage("train@b", ("prepare",), SLOT),
    "predict@a": Stage("predict@a", ("prepare", "train@a"), SLOT),
    "predict@b": Stage("predict@b", ("prepare", "train@b"), SLOT),
    "trainer": Stage("trainer", ("ingest",)),
    "evaluate": Stage("evaluate", ("predict@a", "predict@b")),
}


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([], set(GRAPH)),
        (["ingest"], {"ingest"}),
        (["train@b"], {"ingest", "prepare", "train@b"}),
        (["train"], {"ingest", "prepare", "train@a", "train@b"}),
        (["trainer", "prepare"], {"ingest", "prepare", "trainer"}),
        (["evaluate"], set(GRAPH) - {"trainer"}),
    ],
)
def test_a_closure_is_the_targets_and_what_they_need(
    targets: list[str], expected: set[str]
) -> None:
    assert closure(GRAPH, targets) == expected


@pytest.mark.parametrize("target", ["nothing", "train@", "train@c", "", "trai"])
def test_an_unknown_target_is_refused_with_the_known(target: str) -> None:
    with pytest.raises(FlowError) as caught:
        closure(GRAPH, ["prepare", target])
    assert str(caught.value) == (f"there is no stage '{target}': choose among {', '.join(GRAPH)}")


def test_downstream_is_all_that_follows() -> None:
    assert downstream(GRAPH, set()) == set()
    assert downstream(GRAPH, {"evaluate"}) == {"evaluate"}
    assert downstream(GRAPH, {"train@b"}) == {"train@b", "predict@b", "evaluate"}
    assert downstream(GRAPH, {"ingest"}) == set(GRAPH)


def test_slots_are_counted_that_can_be_used_at_the_same_time() -> None:
    assert parallel_slots(GRAPH) == 2
    assert parallel_slots({"ingest": Stage("ingest")}) == 1
    assert parallel_slots({}) == 1
    chain = {"a": Stage("a", (), SLOT), "b": Stage("b", ("a",), SLOT)}
    assert parallel_slots(chain) == 1


def test_the_projects_own_graph(root: Path, tmp_path: Path) -> None:
    """Its meta is what the flows know, and its trainings are side by side."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(root / name, tmp_path / name)
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = True\n")
    graph = read_status(tmp_path).graph
    trainings = {name for name in graph if name.startswith("train@")}
    assert len(trainings) == 3
    assert all(graph[name].meta.slot and graph[name].parents == ("prepare",) for name in trainings)
    assert parallel_slots(graph) == 3
    assert all(stage.meta.deadline_h for stage in graph.values())
