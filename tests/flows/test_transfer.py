"""A stage whose inputs and outs travel: run in a tree of another clone, and taken from there."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo

from fer_pipeline.errors import FlowError, TransientFlowError
from flows import transfer
from flows.graph import read_status
from flows.orders import Order, Result, commit_to_send, known_inputs, lock_entry, travelling_files
from flows.trees import tree_of

pytestmark = pytest.mark.slow

GRAPH = """
stages:
  prepare:
    cmd: cp raw prepared
    deps: [raw]
    outs: [prepared]
  train:
    cmd: cat prepared code/step > model && echo ${rate} >> model && echo ran >> RUNS
    deps: [prepared, code]
    params: [rate]
    outs: [model]
    meta: {slot: true}
"""


def git(folder: Path, *command: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=T", "-c", "user.email=t@example.invalid", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has prepared, and its remote; `runs` counts what trains."""
    base = tmp_path_factory.mktemp("transfer")
    folder = base / "project"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "step").write_text("step one\n")
    (folder / "raw").write_text("faces\n")
    (folder / "params.yaml").write_text("rate: 1\n")
    (folder / ".gitignore").write_text("/prepared\n/model\n")
    (folder / "dvc.yaml").write_text(GRAPH.replace("RUNS", str(base / "runs")))
    git(folder, "init", "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_SITE_CACHE_DIR", str(base / "site"))
        Repo.init().close()
        (folder / ".dvc" / "config").write_text(
            "[core]\n    remote = store\n['remote \"store\"']\n    url = ../../store\n"
        )
        with Repo() as repo:
            repo.reproduce("prepare")
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "-m", "Start")
        transfer.push(["prepare"])
    return base


@pytest.fixture
def base(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of both, and a clone of the project for a worker."""
    copy = tmp_path / "base"
    shutil.copytree(made, copy)
    graph = copy / "project" / "dvc.yaml"
    graph.write_text(graph.read_text().replace(str(made), str(copy)))
    git(copy / "project", "commit", "--quiet", "--all", "-m", "Here")
    git(copy, "clone", "--quiet", "project", "clone")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.chdir(copy / "project")
    return copy


def order_of(project: Path) -> Order:
    stage = read_status(project).graph["train"]
    files = travelling_files(project)
    inputs = known_inputs(files, stage.inputs)
    return Order(stage="train", commit=commit_to_send(project), files=files, inputs=inputs)


def run(base: Path, order: Order, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Do as a worker does; gives the tree."""
    tree = tree_of(base / "clone", "CPU 1 of 2")
    try:
        transfer.run(order, base / "clone", tree)
    finally:
        monkeypatch.chdir(base / "project")
    return tree


def runs(base: Path) -> int:
    return len((base / "runs").read_text().splitlines()) if (base / "runs").exists() else 0


def test_what_a_worker_made_is_taken_and_made_once(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = base / "project"
    (project / "params.yaml").write_text("rate: 2\n")  # it travels, and needs no commit
    order = order_of(project)
    assert set(order.inputs) == {"prepared", "code"}

    tree = run(base, order, monkeypatch)
    transfer.take(Result(entry=lock_entry(tree, "train"), ran=True, mlflow_runs={}), "train")

    assert (project / "model").read_text() == "faces\nstep one\n2\n"
    assert read_status(project).changed == frozenset()
    shutil.rmtree(tree)  # another machine knows no more than the remote
    shutil.rmtree(base / "clone" / ".dvc" / "cache")
    run(base, order, monkeypatch)
    assert runs(base) == 1


def test_a_tree_forgets_what_the_run_before_left_in_it(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = run(base, order_of(base / "project"), monkeypatch)
    (tree / "code" / "step").write_text("half-edited\n")
    (tree / "code" / "stray").write_text("made by a killed run\n")
    (base / "project" / "params.yaml").write_text("rate: 3\n")

    run(base, order_of(base / "project"), monkeypatch)

    assert (tree / "model").read_text() == "faces\nstep one\n3\n"


def test_a_file_that_git_does_not_know_is_refused_by_the_name_of_its_folder(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base / "project" / "code" / "untracked").write_text("only here\n")

    with pytest.raises(FlowError, match=r"^code of train differ here"):
        run(base, order_of(base / "project"), monkeypatch)
    assert runs(base) == 0


def test_what_a_killed_git_or_dvc_left_in_a_tree_stops_nothing(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_of(base / "project")
    tree = run(base, order, monkeypatch)
    (tree / ".git" / "index.lock").touch()
    (tree / ".dvc" / "tmp" / "rwlock").write_text('{"wri')

    run(base, order, monkeypatch)


def test_a_stage_without_parents_reads_nothing_and_one_without_its_out_runs_once(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = base / "project"
    graph = (project / "dvc.yaml").read_text()
    graph = graph.replace("deps: [prepared, code]", "deps: [code]").replace("cat prepared ", "cat ")
    (project / "dvc.yaml").write_text(graph.replace("[model]", "[model, other]"))
    git(project, "commit", "--quiet", "--all", "-m", "Another graph")

    with pytest.raises(FlowError, match="other") as raised:
        run(base, order_of(project), monkeypatch)

    assert not raised.value.transient
    assert runs(base) == 1


def test_all_that_a_stage_reads_is_compared_though_it_was_made_after_the_run_began() -> None:
    lock = """
stages:
  prepare: {outs: [{path: prepared, md5: 0a}, {path: parts/one, md5: 0b}]}
"""
    before = {"prepared": "", "code": "0c", "parts": "0d.dir"}
    assert known_inputs({"dvc.lock": lock}, before) == {"prepared": "0a", "code": "0c"}


def test_line_endings_that_git_is_told_to_change_make_no_difference(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base / "gitconfig").write_text("[core]\n    autocrlf = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(base / "gitconfig"))
    order = order_of(base / "project")

    assert b"\r" not in (run(base, order, monkeypatch) / "model").read_bytes()


def test_a_commit_that_no_repository_has_is_refused(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_of(base / "project").model_copy(update={"commit": "0" * 40})

    with pytest.raises(FlowError, match=r"commit 0000000000 can't be had .*: push it") as raised:
        run(base, order, monkeypatch)
    assert not raised.value.transient

    monkeypatch.setenv("FER_REPOSITORY", "https://127.0.0.1:9/away.git")
    with pytest.raises(TransientFlowError, match="push it"):
        run(base, order, monkeypatch)


def test_what_was_damaged_on_the_remote_is_not_trained_on(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_of(base / "project")
    (stored,) = (file for file in (base / "store").rglob("*") if file.is_file())
    stored.chmod(0o644)
    stored.write_text("fakes\n")

    with pytest.raises(TransientFlowError, match="what the stage reads can't be had"):
        run(base, order, monkeypatch)
    assert runs(base) == 0


def test_changes_that_workers_would_not_see_are_named(
    base: Path, tmp_path: Path, disown_repositories: Callable[[], None]
) -> None:
    project = base / "project"
    (project / "code" / "step").write_text("step two\n")
    with pytest.raises(FlowError, match=r"^not committed: code/step"):
        commit_to_send(project)

    with pytest.raises(FlowError, match="not the top of a git repository"):
        commit_to_send(project / "code")
    with pytest.raises(FlowError, match="not the top of a git repository"):
        commit_to_send(tmp_path)
    disown_repositories()
    with pytest.raises(FlowError, match=r"by git: .* git config .* safe\.directory"):
        commit_to_send(project)
