"""A version is stored with the code that it runs, and with no other."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fused_model import NAME
from ruamel.yaml import YAML

import fer_pipeline
from fer_pipeline.registry import versions
from fer_pipeline.registry.fetch import open_storage
from fer_pipeline.registry.runs import open_run
from fer_pipeline.registry.tracking import Tracking
from fer_pipeline.registry.versions import (
    MODEL_SCRIPT,
    STORED_FILES,
    Candidate,
    register_once,
    version_digest,
    write_model_code,
)

PACKAGE = Path(fer_pipeline.__file__).parent


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node below a tree but those that only a type checker reads."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from run_time_nodes(child)


def imported_files(path: Path, found: set[Path]) -> set[Path]:
    """The package's files that a file imports at run time, itself or through others."""
    for node in run_time_nodes(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith("fer_pipeline"):
            continue
        module = PACKAGE.joinpath(*str(node.module).split(".")[1:])
        names = [module.with_suffix(".py"), *(module / f"{one.name}.py" for one in node.names)]
        for file in names:
            if file.exists() and file not in found:
                found.add(file)
                imported_files(file, found)
    return found


def test_all_that_the_model_imports_is_stored_and_nothing_else() -> None:
    files = imported_files(MODEL_SCRIPT, set())
    folders = {
        parent for file in files for parent in file.parents if PACKAGE in (parent, *parent.parents)
    }
    needed = files | {folder / "__init__.py" for folder in folders}
    assert set(STORED_FILES) == {file.relative_to(PACKAGE).as_posix() for file in needed}
    assert len(STORED_FILES) == len(set(STORED_FILES))


def test_a_change_of_what_is_stored_runs_the_stage_that_stores_it(root: Path) -> None:
    graph = YAML(typ="safe").load((root / "dvc.yaml").read_text())
    deps = graph["stages"]["register"]["deps"]
    code = [f"fer_pipeline/{name}" for name in STORED_FILES if not name.endswith("__init__.py")]
    assert not [one for one in code if not any(f"{one}/".startswith(f"{dep}/") for dep in deps)]


def test_the_stored_code_is_a_package_of_its_own(tmp_path: Path) -> None:
    package = write_model_code(tmp_path)
    copies = {file.relative_to(package).as_posix() for file in package.rglob("*.py")}
    assert copies == set(STORED_FILES)


@pytest.fixture
def bundle(tmp_path: Path) -> list[Path]:
    (tmp_path / "spec.json").write_text("{}")
    return [tmp_path / "spec.json"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, in place of the package."""
    copy = tmp_path / "fer_pipeline"
    shutil.copytree(PACKAGE, copy)
    monkeypatch.setattr(fer_pipeline, "__file__", str(copy / "__init__.py"))
    monkeypatch.setattr(versions, "MODEL_SCRIPT", copy / "registry" / "pyfunc.py")
    return copy


@pytest.mark.parametrize("file", ["serving/requests.py", "registry/pyfunc.py", "errors.py"])
def test_a_comment_makes_no_other_version_but_a_statement_does(
    file: str, package: Path, bundle: list[Path]
) -> None:
    before = version_digest(bundle)
    with (package / file).open("a") as code:
        code.write("# A comment.\n")
    assert version_digest(bundle) == before
    with (package / file).open("a") as code:
        code.write("NEW = 1\n")
    assert version_digest(bundle) != before


def test_other_code_of_the_package_makes_no_other_version(
    package: Path, bundle: list[Path]
) -> None:
    before = version_digest(bundle)
    (package / "reports" / "report.py").write_text("NEW = 1\n")
    assert version_digest(bundle) == before


def test_other_weights_make_another_version(bundle: list[Path]) -> None:
    before = version_digest(bundle)
    bundle[0].write_text("{ }")
    assert version_digest(bundle) != before


def test_a_fix_of_the_code_becomes_a_version_that_holds_it(
    store: Tracking, package: Path, bundle: list[Path]
) -> None:
    def register() -> str:
        content = version_digest(bundle)
        with open_run(store, "fusion", {"content": content}) as run:
            folders = {"bundle": bundle[0].parent / "bundle"}
            folders["bundle"].mkdir(exist_ok=True)
            candidate = Candidate(
                content=content, run_id=run.run_id, folders=folders, tags={}, description="A card"
            )
            return register_once(store, NAME, candidate)

    assert register() == "1"
    with (package / "serving" / "requests.py").open("a") as code:
        code.write("# A comment.\n")
    assert register() == "1"
    with (package / "serving" / "requests.py").open("a") as code:
        code.write("FIXED = True\n")
    assert register() == "2"
    stored = Path(open_storage(store, NAME, "2").artifact_dir) / "code" / "fer_pipeline"
    assert (stored / "serving" / "requests.py").read_text().endswith("FIXED = True\n")
    assert {file.relative_to(stored).as_posix() for file in stored.rglob("*.py")} == set(
        STORED_FILES
    )
