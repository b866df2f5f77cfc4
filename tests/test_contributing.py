"""The recipes of CONTRIBUTING.md, followed to the letter: their diffs applied, their commands run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from workspace import Workspace, make_workspace

pytestmark = pytest.mark.slow

BLOCK = re.compile(r"^```(diff|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def recipes() -> dict[str, list[tuple[str, str]]]:
    """The blocks of each recipe, by its title."""
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    return {section.partition("\n")[0]: BLOCK.findall(section) for section in sections}


def test_there_is_a_recipe_for_whatever_is_added_most() -> None:
    assert set(recipes()) == {
        "A backbone",
        "A fusion method",
        "An edition of the data",
        "A stage",
    }


@pytest.mark.parametrize("title", recipes())
def test_a_recipe_does_what_it_says(title: str, root: Path, tmp_path: Path) -> None:
    workspace = make_workspace(root, tmp_path)
    for kind, text in recipes()[title]:
        if kind == "diff":
            apply(workspace, text)
        else:
            workspace.check("bash", "-euo", "pipefail", "-c", text)


def apply(workspace: Workspace, diff: str) -> None:
    (workspace.folder / "recipe.diff").write_text(diff)
    workspace.check("git", "apply", "recipe.diff")
