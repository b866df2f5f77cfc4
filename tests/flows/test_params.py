"""What a run does to params.yaml: never to work that would be lost, never to a worse file."""

from __future__ import annotations

import difflib
import shutil
import subprocess
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from workspace import environment

from fer_pipeline.errors import FlowError, ParamsError
from fer_pipeline.params.load import load_params
from flows.params import apply, describe


@pytest.fixture(scope="module")
def template(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's params and recipes, committed, in a folder below that of git."""
    base = tmp_path_factory.mktemp("params")
    folder = base / "project"
    shutil.copytree(root / "recipes", folder / "recipes")
    shutil.copy(root / "recipes" / "sample.yaml", folder / "params.yaml")
    # So that its being in git matters.
    (folder / "recipes" / "sample.yaml").unlink()
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Start"]):
        subprocess.run(["git", *command], cwd=base, env=environment(base), check=True)
    return base


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "copy")
    return tmp_path / "copy" / "project"


def text(folder: Path) -> str:
    return (folder / "params.yaml").read_text()


def recipe(folder: Path, name: str) -> str:
    return (folder / "recipes" / f"{name}.yaml").read_text()


def edit(folder: Path) -> str:
    """A change by hand that is valid, and in no commit."""
    edited = text(folder).replace("seed: 0\n", "seed: 41\n", 1)
    assert edited != text(folder)
    (folder / "params.yaml").write_text(edited)
    return edited


def changed_lines(before: str, after: str) -> list[str]:
    diff = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [one for one in diff if one[:1] in "+-" and one[:3] not in ("+++", "---")]


def test_nothing_wanted_changes_nothing(folder: Path) -> None:
    edited = edit(folder)
    assert apply(folder, None, {}) is False
    assert text(folder) == edited


def test_a_recipe_takes_the_place_of_params(folder: Path) -> None:
    assert apply(folder, "quick", {}) is True
    assert text(folder) == recipe(folder, "quick")
    assert apply(folder, "quick", {}) is False


def test_an_equal_recipe_is_no_change_even_of_uncommitted_params(folder: Path) -> None:
    edited = edit(folder)
    (folder / "recipes" / "mine.yaml").write_text(edited)
    assert apply(folder, "mine", {}) is False
    assert text(folder) == edited


def test_overrides_change_their_lines_and_keep_the_comments(folder: Path) -> None:
    before = text(folder)
    assert "seed: 0\n" in before
    assert apply(folder, None, {"seed": 5, "training.mixup": 0.2}) is True
    changed = changed_lines(before, text(folder))
    assert changed == [
        "-seed: 0",
        "+seed: 5",
        "-  mixup: 0.0   # of its beta distribution; 0 is off",
        "+  mixup: 0.2   # of its beta distribution; 0 is off",
    ]


def test_an_override_reaches_into_a_line_of_its_own_section(folder: Path) -> None:
    assert apply(folder, None, {"backbones.resnet50.finetune.epochs": 7})
    params = load_params(folder / "params.yaml")
    assert params.backbones["resnet50"].finetune.epochs == 7
    assert params.backbones["resnet101"].finetune.epochs == 2


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        (None, {"fusion.method": "greedy"}, "params.yaml with fusion.method = greedy"),
        ("quick", {}, "params.yaml of recipe quick"),
        ("quick", {"seed": 1, "training.mixup": 0.2}, " quick with seed = 1, training.mixup = 0.2"),
    ],
)
def test_what_was_written_is_said_in_words(
    name: str | None, overrides: dict[str, Any], said: str
) -> None:
    assert describe(name, overrides).endswith(said)


def test_overrides_go_over_the_recipe(folder: Path) -> None:
    assert apply(folder, "scratch", {"seed": 17})
    content = YAML(typ="safe").load(text(folder))
    expected = YAML(typ="safe").load(recipe(folder, "scratch")) | {"seed": 17}
    assert content == expected


@pytest.mark.parametrize(
    "name", ["nowhere", "", "../params", "../recipes/quick", "quick.yaml", "sub/quick", "..", "/x"]
)
def test_an_unknown_recipe_is_refused_with_the_known(name: str, folder: Path) -> None:
    before = text(folder)
    (folder / "recipes" / "sub").mkdir()
    shutil.copy(folder / "recipes" / "quick.yaml", folder / "recipes" / "sub")
    with pytest.raises(FlowError) as caught:
        apply(folder, name, {})
    assert str(caught.value) == (
        f"there is no recipe '{name}': choose among cpu, paper, quick, scratch"
    )
    assert text(folder) == before


@pytest.mark.parametrize(
    "key",
    ["sed", "training.nothing", "seed.deeper", "backbones.vgg.finetune", "", ".", "training."],
)
def test_an_unknown_key_is_refused(key: str, folder: Path) -> None:
    before = text(folder)
    with pytest.raises(FlowError) as caught:
        apply(folder, None, {key: 1})
    assert str(caught.value) == f"params.yaml has no '{key}' to override"
    assert text(folder) == before


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", -1, "seed is -1: it must be "),
        ("seed", "many", "seed is 'many': it must be "),
        ("training.optimizer", "magic", "training.optimizer is 'magic': it must be "),
        ("backbones", {}, "backbones is {}: it must not be empty"),
        ("training", None, "training is None: it must be "),
    ],
)
def test_an_impossible_value_is_refused(key: str, value: Any, message: str, folder: Path) -> None:
    before = text(folder)
    with pytest.raises(ParamsError) as caught:
        apply(folder, None, {key: value})
    assert str(caught.value).startswith(f"params.yaml: {message}")
    assert text(folder) == before
    assert apply(folder, "quick", {})  # nor is anything remembered of it


def test_a_backbone_that_nobody_knows_is_refused(folder: Path) -> None:
    before = text(folder)
    unknown = recipe(folder, "quick").replace("resnet50", "resnet51")
    (folder / "recipes" / "unknown.yaml").write_text(unknown)
    with pytest.raises(ParamsError, match="resnet51"):
        apply(folder, "unknown", {})
    assert text(folder) == before


@pytest.mark.parametrize("broken", ["seed: [\n", "", "- a list\n"])
def test_broken_params_can_be_neither_overridden_nor_lost(broken: str, folder: Path) -> None:
    (folder / "params.yaml").write_text(broken)
    for name, overrides in ((None, {"seed": 1}), ("quick", {})):
        with pytest.raises((FlowError, ParamsError)) as caught:
            apply(folder, name, overrides)
        assert "\n" not in str(caught.value)
        assert text(folder) == broken


def test_params_that_are_missing_are_told(folder: Path) -> None:
    (folder / "params.yaml").unlink()
    with pytest.raises(ParamsError, match=r"params\.yaml is missing"):
        apply(folder, None, {"seed": 1})


@pytest.mark.parametrize(("name", "overrides"), [("quick", {}), (None, {"training.mixup": 0.2})])
def test_an_edit_that_is_in_no_commit_is_not_lost(
    name: str | None, overrides: dict[str, Any], folder: Path
) -> None:
    edited = edit(folder)
    with pytest.raises(FlowError, match=r"params\.yaml has changes that are in no commit and no"):
        apply(folder, name, overrides)
    assert text(folder) == edited


def test_an_edit_that_is_committed_may_be_replaced(folder: Path) -> None:
    edit(folder)
    subprocess.run(
        ["git", "commit", "-qam", "Edit"], cwd=folder, env=environment(folder), check=True
    )
    assert apply(folder, "quick", {}) is True


def test_an_edit_that_is_only_staged_is_not_lost(folder: Path) -> None:
    edit(folder)
    subprocess.run(["git", "add", "-A"], cwd=folder, env=environment(folder), check=True)
    with pytest.raises(FlowError, match="in no commit"):
        apply(folder, "quick", {})


def test_what_a_run_wrote_may_be_replaced_until_somebody_edits_it(folder: Path) -> None:
    assert apply(folder, "quick", {"seed": 3})
    assert apply(folder, "scratch", {"seed": 4})
    assert apply(folder, None, {"seed": 5})
    edited = text(folder).replace("seed: 5", "seed: 6")
    assert edited != text(folder)
    (folder / "params.yaml").write_text(edited)
    with pytest.raises(FlowError, match="in no commit"):
        apply(folder, "quick", {})
    assert text(folder) == edited


def test_a_recipe_by_hand_may_be_replaced_outside_git(folder: Path) -> None:
    shutil.rmtree(folder.parent / ".git")
    with pytest.raises(FlowError, match="in no commit"):
        apply(folder, "quick", {})
    (folder / "params.yaml").write_text(recipe(folder, "scratch"))
    assert apply(folder, "quick", {}) is True


def test_other_files_of_the_process_are_written_as_before(folder: Path) -> None:
    """DVC's `dvc.lock` among them, whose text would differ from that of `dvc repro`."""
    apply(folder, None, {"data.max_drift": None, "seed": 3})
    assert "max_drift: null" in (folder / "params.yaml").read_text()
    stream = StringIO()
    YAML().dump({"max_drift": None}, stream)
    assert stream.getvalue() == "max_drift:\n"
