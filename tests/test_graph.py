"""dvc.yaml against the code: its paths, its dependencies, and how its outs are kept."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from fer_pipeline import paths
from fer_pipeline.params.schema import Params
from fer_pipeline.stages.launch import STAGES

# What may change without any out changing: these validate, name and announce, or keep a record
# of what happened. Params are declared by each stage; emotions and paths are held equal to the
# data set and to dvc.yaml.
OBSERVERS = {
    "fer_pipeline.arrays",
    "fer_pipeline.choices",
    "fer_pipeline.emotions",
    "fer_pipeline.errors",
    "fer_pipeline.events",
    "fer_pipeline.files",
    "fer_pipeline.params.load",
    "fer_pipeline.params.schema",
    "fer_pipeline.paths",
    "fer_pipeline.provenance",
    "fer_pipeline.registry.runs",
    "fer_pipeline.registry.tracking",
    "fer_pipeline.stages.copies",
    "fer_pipeline.stages.progress",
    "fer_pipeline.threads",
}


@pytest.fixture(scope="module")
def stages(root: Path) -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml, those with foreach by what they do."""
    content = YAML(typ="safe").load((root / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in content.items()}


def out_entries(stage: dict[str, Any]) -> list[Any]:
    return [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]


def path_of(entry: Any) -> str:
    return next(iter(entry)) if isinstance(entry, dict) else entry


def imported_modules(module: str, root: Path, seen: set[str]) -> set[str]:
    """Every module that a module imports at run time, at any depth, but not through observers."""
    path = root / f"{module.replace('.', '/')}.py"
    if module in seen or module in OBSERVERS or not path.exists():
        return seen
    seen.add(module)
    for node in _run_time_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fer_pipeline"):
            imported_modules(str(node.module), root, seen)
            for alias in node.names:
                imported_modules(f"{node.module}.{alias.name}", root, seen)
    return seen


def _run_time_nodes(tree: ast.AST) -> list[ast.AST]:
    nodes: list[ast.AST] = []
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        nodes += [child, *_run_time_nodes(child)]
    return nodes


def test_the_graph_has_the_stages_of_the_design(stages: dict[str, dict[str, Any]]) -> None:
    assert tuple(stages) == STAGES


def test_no_value_of_params_stands_in_a_command(stages: dict[str, dict[str, Any]]) -> None:
    assert {stage["cmd"].partition("#")[0].strip() for stage in stages.values()} == {
        f"exec python -m fer_pipeline.stages {name}" for name in STAGES
    }


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_all_the_code_that_it_imports(
    name: str, stages: dict[str, dict[str, Any]], root: Path
) -> None:
    modules = imported_modules(f"fer_pipeline.stages.{name}", root, set())
    declared = [dep for dep in stages[name]["deps"] if dep.startswith("fer_pipeline/")]
    needed = {f"{module.replace('.', '/')}.py" for module in modules}
    assert not {path for path in needed if not any(covers(dep, path) for dep in declared)}
    unused = {dep for dep in declared if not any(covers(dep, path) for path in needed)}
    # MLflow stores the package with a version: register depends on what that code imports.
    assert not unused or name == "register"


def covers(dep: str, path: str) -> bool:
    """Whether a dependency is a file, or the folder that it lies in."""
    return path == dep or path.startswith(f"{dep}/")


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_depends_on_one_list_of_its_libraries(
    name: str, stages: dict[str, dict[str, Any]], root: Path
) -> None:
    (lock,) = (dep for dep in stages[name]["deps"] if dep.startswith("locks/"))
    listed = (root / lock).read_text().splitlines()
    pinned = (root / "requirements.lock").read_text().splitlines()
    assert listed
    assert set(listed) <= {line.partition(" ")[0] for line in pinned}  # else run 'make locks'


def test_every_dependency_exists_or_is_made_by_a_stage(
    stages: dict[str, dict[str, Any]], root: Path
) -> None:
    made = {path_of(entry) for stage in stages.values() for entry in out_entries(stage)}
    for stage in stages.values():
        for dep in stage["deps"]:
            inside = any(out.startswith(f"{dep}/") for out in made)
            assert dep in made or inside or (root / dep).exists(), dep


def test_every_out_is_cached_and_none_persists(stages: dict[str, dict[str, Any]]) -> None:
    for stage in stages.values():
        for entry in out_entries(stage):
            options = next(iter(entry.values())) if isinstance(entry, dict) else {}
            assert "persist" not in options
            assert options.get("cache", True) is True


def test_the_paths_and_dvc_yaml_name_the_same_files(stages: dict[str, dict[str, Any]]) -> None:
    made = {path_of(entry) for stage in stages.values() for entry in out_entries(stage)}
    key = "${key}"
    named = {
        paths.FACES,
        paths.TRAIN,
        paths.VAL,
        paths.TEST,
        paths.DATA_METRICS,
        paths.CLASS_BALANCE,
        paths.GREYS,
        paths.DATA_EXAMPLES,
        paths.DATA_PAGE,
        paths.model_file(key),
        paths.training_metrics(key),
        paths.training_curve(key),
        paths.provenance(key),
        paths.predictions(key),
        paths.FUSION,
        paths.SIMPLEX,
        paths.EVALUATION,
        paths.SUMMARY,
        paths.ACCURACY,
        paths.CONFUSION,
        paths.TEST_EXAMPLES,
        paths.REPORT,
        paths.MODEL_CARD,
        paths.CURVES,
        paths.VERDICT,
    }
    assert made == {path.as_posix() for path in named}


def test_every_plot_has_a_template_of_dvc_or_of_the_project(
    stages: dict[str, dict[str, Any]], root: Path
) -> None:
    own = {path.stem: json.loads(path.read_text()) for path in (root / ".dvc/plots").glob("*.json")}
    known = {"simple", "linear", "scatter", "confusion", "bar_horizontal"} | set(own)
    used = {
        next(iter(plot.values()))["template"]
        for stage in stages.values()
        for plot in stage.get("plots", [])
    }
    assert set(own) <= used <= known
    for template in own.values():  # with several revisions side by side, as in dvc plots diff
        assert template["encoding"]["column"]["field"] == "rev"


def test_every_param_is_declared_by_a_stage_or_decides_no_out(
    stages: dict[str, dict[str, Any]], params: Params
) -> None:
    declared = {str(param) for stage in stages.values() for param in stage.get("params", [])}
    sections = set(params.model_dump()) - {"monitoring"}  # of faces that come in later
    for section in sections:
        assert any(param.split(".")[0] == section for param in declared), section
