"""Runs of a real git and DVC repository: its commits, a branch, an experiment and the workspace."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from fer_command import run_fer
from run_files import write_run
from workspace import Workspace, environment

from fer_pipeline.cli.compare import checkout, read_run
from fer_pipeline.errors import DataError
from fer_pipeline.paths import EVALUATION, FUSION, PARAMS, PREDICTIONS, TEST, predictions

# The repository is shared: one worker runs all of it.
pytestmark = pytest.mark.slow

PATHS = [EVALUATION, FUSION, TEST, PREDICTIONS]

DVC_YAML = f"""\
stages:
  all:
    cmd: cp -r made/. .
    deps: [made]
    outs:
      - {EVALUATION}
      - {FUSION}
      - {TEST}
      - {predictions("resnet50")}
      - {predictions("inception_v3")}
"""


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A repository to be read.

    Its tags are before, first, second, lost (an out is not in the cache), astray (the same, and
    its remote can't be used) and elsewhere (another test set). Its experiment is loud.
    """
    folder = tmp_path_factory.mktemp("project")
    project = Workspace(folder, environment(folder, root))
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / ".gitignore").write_text("/data\n/metrics\n/models\n/predictions\n")
    shutil.copyfile(root / PARAMS, folder / PARAMS)
    project.check("git", "init", "--quiet", "--initial-branch=main")
    project.check("dvc", "init", "--quiet")

    def repro(wrong: range, *command: str, test: str = "test-1") -> None:
        write_run(folder / "made", wrong, test)
        project.check(*(command or ("dvc", "repro", "--quiet")))

    def commit(tag: str) -> None:
        project.check("git", "add", "--all")
        project.check("git", "commit", "--quiet", "--message", tag)
        project.check("git", "tag", tag)

    write_run(folder / "made", range(12))
    commit("before")
    repro(range(12))
    commit("first")
    repro(range(3, 5))
    commit("second")
    repro(range(7), "dvc", "exp", "run", "--quiet", "--name", "loud")
    project.check("git", "reset", "--quiet", "--hard")
    repro(range(9))
    commit("lost")
    (lost,) = [
        out for path, out in project.outs().items() if path == predictions("resnet50").as_posix()
    ]
    (folder / ".dvc" / "cache" / "files" / "md5" / lost[:2] / lost[2:]).unlink()
    project.check("dvc", "remote", "add", "--quiet", "--default", "cloud", "gs://nobody/nothing")
    commit("astray")
    project.check("dvc", "remote", "remove", "cloud")
    repro(range(12), test="test-2")
    commit("elsewhere")
    repro(range(20))  # the workspace, not committed
    return project


@pytest.fixture
def inside(project: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", project.env["DVC_SITE_CACHE_DIR"])
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    return project


@pytest.mark.parametrize(
    ("revision", "right"),
    [("first", 28), ("second", 38), ("second~1", 28), ("loud", 33), ("workspace", 20)],
)
def test_a_run_is_read_as_it_was_at_its_revision(
    revision: str, right: int, inside: Workspace
) -> None:
    run = read_run(revision)
    assert run.hits.sum() == right
    assert run.scores["fused"].accuracy == right / 40


def test_the_folder_of_a_revision_is_gone_afterwards_and_the_workspaces_stays(
    inside: Workspace,
) -> None:
    with checkout("first", PATHS) as folder:
        assert (folder / predictions("resnet50")).is_file()
    assert not folder.exists()
    with checkout("workspace", PATHS) as folder:
        assert folder.resolve() == inside.folder.resolve()
    assert (inside.folder / EVALUATION).is_file()


def test_reading_changes_neither_git_nor_dvc(inside: Workspace) -> None:
    def state() -> tuple[str, str, bytes]:
        git = inside.check("git", "status", "--porcelain") + inside.check(
            "git", "rev-parse", "HEAD"
        )
        return (
            git,
            inside.check("dvc", "status", "--json"),
            (inside.folder / "dvc.lock").read_bytes(),
        )

    before = state()
    read_run("first")
    assert state() == before


@pytest.mark.parametrize("revision", ["nobody", "HEAD~99", "-x"])
def test_an_unknown_revision_is_one_error(revision: str, inside: Workspace) -> None:
    says = rf"^'{re.escape(revision)}' is no git revision and no DVC experiment"
    with pytest.raises(DataError, match=says):
        read_run(revision)


def test_a_revision_without_a_run_is_one_error(inside: Workspace) -> None:
    with pytest.raises(DataError, match=r"^before has no dvc\.lock: commit a run first \(git add"):
        read_run("before")


def test_an_out_that_is_not_in_the_cache_is_one_error(inside: Workspace) -> None:
    says = r"^lost has no predictions, or DVC has it neither in its cache .*resnet50\.npz"
    with pytest.raises(DataError, match=says):
        read_run("lost")


def test_a_remote_that_can_not_be_used_is_one_error(inside: Workspace) -> None:
    with pytest.raises(DataError, match=r"^astray has no .*requires 'dvc-gs'"):
        read_run("astray")


def test_a_folder_that_is_no_dvc_repository_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="this is no DVC repository"):
        read_run("HEAD")


@pytest.mark.usefixtures("inside")
def test_fer_compare_shows_scores_and_what_the_difference_means(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, output, _ = run_fer(monkeypatch, capsys, "compare", "first", "second")
    assert re.search(r"fused +│ accuracy +│ +0\.7000 │ +0\.9500 │ +\+0\.2500", output)
    assert re.search(r"inception_v3 +│ accuracy +│ +0\.0000 │ +0\.0000 │ +\+0\.0000", output)
    assert output.count("Brier") == 3
    # 12 images against 2 that both get wrong: ten for the second, none for the first.
    assert "fused, second less first: +25.00 points, 95 % interval +" in output
    assert "McNemar p 0.002" in output
    assert output.splitlines()[-1] == (
        "second is better than first on this test set: the interval lies above zero, and p is at "
        "most 0.05."
    )


@pytest.mark.usefixtures("inside")
def test_fer_compare_says_that_test_sets_differ(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, output, _ = run_fer(monkeypatch, capsys, "compare", "first", "elsewhere")
    assert "The test sets differ (40 and 40 images)" in output
    assert "McNemar" not in output
    assert re.search(r"0\.7000 │ +0\.7000", output)


@pytest.mark.usefixtures("inside")
def test_fer_compare_ends_with_one_line_where_there_is_nothing_to_compare(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run_fer(monkeypatch, capsys, "compare", "first", "nobody")
    assert (status, out) == (1, "")
    assert err.startswith("error: 'nobody' is no git revision and no DVC experiment")
    assert err.count("\n") == 1
