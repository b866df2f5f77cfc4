"""The recipes of CONTRIBUTING.md, to the letter: their diffs are applied, their commands run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from workspace import SAMPLE, Workspace, make_workspace

pytestmark = pytest.mark.slow

BLOCK = re.compile(r"^```(diff|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def recipes() -> dict[str, list[tuple[str, str]]]:
    """The blocks of each recipe, by its title."""
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    return {section.partition("\n")[0]: BLOCK.findall(section) for section in sections}


def test_there_is_a_recipe_for_what_people_add() -> None:
    assert set(recipes()) == {"A backbone", "A fusion method", "An edition of the data", "A stage"}


@pytest.fixture(scope="module")
def workspace(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One for all recipes, which have nothing to do with each other."""
    made = make_workspace(root, tmp_path_factory.mktemp("recipes"), small=False)
    made.edit_params(data__sample=SAMPLE)
    return made


@pytest.mark.parametrize("title", recipes())
def test_a_recipe_does_what_it_says(title: str, workspace: Workspace) -> None:
    for kind, text in recipes()[title]:
        if kind == "diff":
            apply(workspace.folder, text)
        else:
            workspace.check("bash", "-euo", "pipefail", "-c", text)


def apply(folder: Path, diff: str) -> None:
    """Apply hunks without line numbers; the last line of one may be the beginning of a line."""
    for hunk in re.split(r"^(?=(?:---|\+\+\+) )", diff, flags=re.MULTILINE)[1:]:
        head, *lines = hunk.splitlines()
        path = folder / head.partition(" ")[2]
        old = "\n".join(line[1:] for line in lines if line[:1] in " -")
        new = "\n".join(line[1:] for line in lines if line[:1] in " +")
        text = path.read_text() if head.startswith("---") else ""
        assert text.count(old) == 1 or not text, f"{path.name} has not once:\n{old}"
        path.write_text(text.replace(old, new, 1) if text else f"{new}\n")
