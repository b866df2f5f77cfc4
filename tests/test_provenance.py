"""A model's origin as git tells it, or plainly unknown."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fer_pipeline.errors import DataError
from fer_pipeline.params.schema import Params
from fer_pipeline.provenance import GitState, StageInputs, code_digest, content_digest, git_state


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, where nothing from the outside tells git of a repository."""
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    done = subprocess.run(
        ["git", *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def commit(folder: Path) -> str:
    """A repository with one committed file."""
    git("init", "--quiet")
    Path("params.yaml").write_text("seed: 0\n")
    git("add", "params.yaml")
    git("commit", "--quiet", "--message", "Begin")
    return git("rev-parse", "HEAD")


def test_a_clean_tree_is_its_commit(commit: str) -> None:
    assert git_state() == GitState(commit, dirty=False)


def test_a_repository_that_git_refuses_is_told_of(
    commit: str, caplog: pytest.LogCaptureFixture, disown_repositories: Callable[[], None]
) -> None:
    disown_repositories()
    assert git_state() == GitState("unknown", dirty=False)
    assert "the commit is not recorded: " in caplog.text
    assert "git config --global --add safe.directory" in caplog.text


def test_a_changed_file_makes_the_tree_dirty_staged_or_not(commit: str) -> None:
    Path("params.yaml").write_text("seed: 1\n")
    assert git_state() == GitState(commit, dirty=True)
    git("add", "params.yaml")
    assert git_state() == GitState(commit, dirty=True)


def test_what_dvc_notes_of_the_run_itself_does_not_make_the_tree_dirty(commit: str) -> None:
    Path("dvc.lock").write_text("stages: {}")
    git("add", "dvc.lock")
    assert git_state() == GitState(commit, dirty=False)


def test_an_untracked_file_does_not_make_the_tree_dirty(commit: str) -> None:
    Path("notes.txt").write_text("mine")
    assert git_state() == GitState(commit, dirty=False)


def test_the_state_is_found_from_a_folder_below(
    commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("below").mkdir()
    monkeypatch.chdir("below")
    assert git_state().commit == commit


@pytest.mark.usefixtures("folder")
def test_outside_a_repository_the_commit_is_unknown() -> None:
    assert git_state() == GitState("unknown", dirty=False)


@pytest.mark.usefixtures("folder")
def test_a_repository_without_a_commit_is_unknown() -> None:
    git("init", "--quiet")
    assert git_state() == GitState("unknown", dirty=False)


def test_without_git_the_commit_is_unknown(commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_state() == GitState("unknown", dirty=False)


def test_the_content_digest_follows_contents_and_order_and_not_names(tmp_path: Path) -> None:
    for name, content in (
        ("a", b"one"),
        ("b", b"two"),
        ("c", b"one"),
        ("d", b"onetwo"),
        ("e", b""),
    ):
        (tmp_path / name).write_bytes(content)
    a, b, c, d, e = (tmp_path / name for name in "abcde")
    assert content_digest([a, b]) == content_digest([c, b])
    digests = [content_digest(paths) for paths in ([a, b], [b, a], [a], [d], [d, e], [])]
    assert len(set(digests)) == len(digests)
    parts = hashlib.sha256(b"one").digest() + hashlib.sha256(b"two").digest()
    assert content_digest([a, b]) == hashlib.sha256(parts).hexdigest()


CODE = """\
import math

SIZE = 4
"Its side in pixels."


def area(side: int) -> int:
    return side * side
"""


def write_code(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        f'"""A docstring."""\n{CODE}',
        f"# A comment.\n{CODE}",
        CODE.replace("side * side", "(side\n        * side)  # squared"),
        CODE.replace("    return", '    """Side by side."""\n    return'),
        CODE.replace('"Its side in pixels."\n', ""),
    ],
)
def test_what_changes_nothing_that_code_does_keeps_its_digest(text: str, tmp_path: Path) -> None:
    before, after = (write_code(tmp_path / name, CODE) for name in ("a.py", "b.py"))
    after.write_text(text)
    assert code_digest([before]) == code_digest([after])


@pytest.mark.parametrize(
    "text",
    [
        CODE.replace("side * side", "side + side"),
        CODE.replace("SIZE = 4", "SIZE = 4.0"),
        CODE.replace("SIZE = 4", "SIZE = 'a text that is used'"),
        CODE + "area(SIZE)\n",
    ],
)
def test_what_changes_what_code_does_changes_its_digest(text: str, tmp_path: Path) -> None:
    before, after = write_code(tmp_path / "a.py", CODE), write_code(tmp_path / "b.py", text)
    assert code_digest([before]) != code_digest([after])


def test_the_digest_of_a_folder_follows_names_and_contents_and_not_its_place(
    tmp_path: Path,
) -> None:
    for folder in ("here", "there"):
        write_code(tmp_path / folder / "below" / "code.py", CODE)
        write_code(tmp_path / folder / "page.html", "<p>")
    here, there = tmp_path / "here", tmp_path / "there"
    write_code(there / "below" / "__pycache__" / "code.pyc", "made by Python")
    assert code_digest([here]) == code_digest([there])
    write_code(there / "page.html", "<p> ")  # no Python: each byte counts
    assert code_digest([here]) != code_digest([there])
    write_code(there / "page.html", "<p>")
    (there / "below" / "code.py").rename(there / "code.py")
    assert code_digest([here]) != code_digest([there])


def test_a_missing_file_has_no_code_digest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.py"):
        code_digest([tmp_path / "missing.py"])


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the graph, its lists of libraries, and prepared data."""
    shutil.copy2(root / "dvc.yaml", tmp_path)
    shutil.copytree(root / "locks", tmp_path / "locks")
    for name in ("train", "val"):
        write_code(tmp_path / f"data/prepared/{name}.npz", f"the images of {name}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inputs_of(params: Params, backbone: str = "resnet50") -> StageInputs:
    return StageInputs.read("train", backbone, params)


@pytest.mark.usefixtures("project")
def test_the_inputs_of_a_training_are_those_that_the_graph_lists(params: Params) -> None:
    inputs = inputs_of(params)
    assert inputs.stage == "train@resnet50"
    assert set(inputs.data) == {"data/prepared/train.npz", "data/prepared/val.npz"}
    assert inputs.params["seed"] == 0
    assert inputs.params["training.augment.flip"] == 0.5
    assert inputs.params["backbones.resnet50.image_size"] == 40
    sections = {key.split(".")[0] for key in inputs.params}
    assert sections == {"seed", "backbones", "training"}
    assert not [key for key in inputs.params if "resnet101" in key]
    assert inputs.logged["data.val"] == hashlib.sha256(b"the images of val").hexdigest()
    assert inputs == inputs_of(params)


def test_what_decides_the_weights_changes_the_key(project: Path, params: Params) -> None:
    first = inputs_of(params)
    others = [
        inputs_of(params.model_copy(update={"seed": 1})),
        inputs_of(
            params.model_copy(
                update={"training": params.training.model_copy(update={"mixup": 0.1})}
            )
        ),
        inputs_of(params, "resnet101"),
    ]
    write_code(project / "data/prepared/val.npz", "other images")
    others.append(inputs_of(params))
    assert len({inputs.key for inputs in [first, *others]}) == 5


def test_other_libraries_void_checkpoints(project: Path, params: Params) -> None:
    first = inputs_of(params)
    write_code(project / "locks/train.txt", "torch==9.0\n")
    assert inputs_of(params).key != first.key


def test_what_does_not_decide_the_weights_changes_nothing(project: Path, params: Params) -> None:
    first = inputs_of(params)
    write_code(project / "locks/registry.txt", "mlflow==9.0\n")
    write_code(project / "data/prepared/test.npz", "the images of test")
    gate = params.gate.model_copy(update={"min_gain": 0.5})
    assert inputs_of(params.model_copy(update={"gate": gate})) == first


def test_a_missing_dependency_is_named_with_the_stage_that_makes_it(
    project: Path, params: Params
) -> None:
    (project / "data/prepared/val.npz").unlink()
    with pytest.raises(DataError, match=r"^data/prepared/val\.npz is missing: run 'dvc repro prep"):
        inputs_of(params)
    (project / "dvc.yaml").unlink()
    with pytest.raises(
        DataError, match=r"^dvc\.yaml is missing: run this in the project's folder$"
    ):
        inputs_of(params)
