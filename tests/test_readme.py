"""What README.md and docs/ name exists: targets, commands, recipes, files, links."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from fer_pipeline import paths
from fer_pipeline.cli.main import app

PAGES = (
    "README.md",
    "SECURITY.md",
    "docs/architecture.md",
    "docs/flows.md",
    "docs/registry.md",
    "docs/results.md",
    "docs/serving.md",
    "docs/training.md",
    "docs/where-to-look.txt",
)


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return "\n".join((root / page).read_text() for page in PAGES)


def test_every_make_target_exists(text: str, root: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (root / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make (\w+)|^make (\w+)", text, re.MULTILINE))
    assert named
    assert {first or second for first, second in named} <= targets


def test_every_fer_command_exists(text: str) -> None:
    named = set(
        re.findall(
            r"(?:`|^|\s)fer ((?:source|registry) \w+|check|compare|predict|repair)",
            text,
            re.MULTILINE,
        )
    )
    assert named >= {"source pin", "source status", "check", "compare", "predict", "repair"}
    assert named >= {f"registry {do}" for do in ("status", "history", "promote", "rollback", "gc")}
    for command in named:
        done = CliRunner().invoke(app, [*command.split(), "--help"])
        assert done.exit_code == 0, done.output


def test_every_recipe_and_link_exists(text: str, root: Path) -> None:
    recipes = set(re.findall(r"recipes/(\w+\.yaml)", text))
    assert recipes
    assert all((root / "recipes" / name).is_file() for name in recipes)
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", (root / page).read_text()):
            assert ((root / page).parent / link).exists(), f"{page}: {link}"


def test_the_table_of_recipes_lists_every_recipe(root: Path) -> None:
    listed = set(re.findall(r"^\| `(\w+\.yaml)`", (root / "README.md").read_text(), re.MULTILINE))
    assert listed == {path.name for path in (root / "recipes").glob("*.yaml")}


def test_the_places_to_look_are_outs_of_the_graph(text: str) -> None:
    for path in (paths.REPORT, paths.DATA_PAGE, paths.VERDICT):
        assert path.as_posix() in text


@pytest.mark.slow
def test_help_lists_every_target(root: Path) -> None:
    done = subprocess.run(["make", "help"], cwd=root, capture_output=True, text=True, check=True)
    for target in ("help", "setup", "demo", "flow", "test", "lint", "check", "lock", "clean"):
        assert re.search(rf"^{target}\s+\w", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_every_flow_command_and_deployment_exists(text: str, root: Path) -> None:
    for flow in set(re.findall(r"python -m flows (\w+)", text)):
        done = subprocess.run(
            [sys.executable, "-m", "flows", flow, "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        for option in re.findall(rf"python -m flows {flow}[^\n#]*?(--\w+)", text):
            assert option in done.stdout
    deployed = YAML(typ="safe").load((root / "prefect.yaml").read_text())["deployments"]
    flows = {one["name"].partition("{{")[0]: Path(one["entrypoint"]).stem for one in deployed}
    named = set(re.findall(r"\b((?:ingest|pipeline|promotion|score)/[\w-]+)", text))
    # The second is what `--suffix second` makes of a name.
    assert {name.removesuffix("-second") for name in named} == {
        f"{flow}/{name}" for name, flow in flows.items()
    }
