"""Which commit, code and data made a model: from git, from files and from `dvc.yaml`."""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from importlib.metadata import version
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from fer_pipeline.paths import FUSION, GRAPH, require, require_project

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params

log = logging.getLogger(__name__)

_CODE = "fer_pipeline/"
_LOCKS = "locks/"


@dataclass(frozen=True)
class GitState:
    """The commit of the working tree, or `unknown`, and whether tracked files differ from it."""

    commit: str
    dirty: bool


def git_state() -> GitState:
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return GitState("unknown", dirty=False)
    # The stages of this very run have changed dvc.lock: that says nothing about what they ran.
    rest = ("--", ":(exclude)dvc.lock")
    return GitState(commit, bool(_git("status", "--porcelain", "--untracked-files=no", *rest)))


@dataclass(frozen=True)
class StageInputs:
    """All that decides the outs of a stage: its deps and params in `dvc.yaml`, and no second list.

    Code counts by what it does (`code_digest`), so that a comment voids no checkpoint.

    Attributes:
        stage: as DVC names it, such as `train@resnet50`.
        params: flat, such as `training.augment.flip`.
        data: sha256 of each file that is no code, by path.
        code: digest of the code and of the list of library versions.
    """

    stage: str
    params: Mapping[str, object]
    data: Mapping[str, str]
    code: str

    @classmethod
    def read(cls, stage: str, backbone: str, params: Params) -> StageInputs:
        """The inputs of a stage that `dvc.yaml` lists once for all backbones.

        Raises:
            DataError: `dvc.yaml` or a dependency is missing.
        """
        graph = _read_graph(backbone)
        found, values = graph[f"{stage}@{backbone}"], params.model_dump()
        deps = [str(path) for path in found["deps"]]
        code = [path for path in deps if path.startswith((_CODE, _LOCKS))]
        data = {path: require(Path(path), _maker(graph, path)) for path in deps if path not in code}
        return cls(
            f"{stage}@{backbone}",
            flatten(
                {str(key): reduce(getitem, str(key).split("."), values) for key in found["params"]}
            ),
            {path: file_sha256(file) for path, file in data.items()},
            code_digest(map(_place_of, code)),
        )

    @property
    def content(self) -> dict[str, object]:
        return {"params": dict(self.params), "data": dict(self.data), "code": self.code}

    @property
    def key(self) -> str:
        """What a checkpoint, an unfinished MLflow run and a stage's own choices go with."""
        return _digest_of([self.stage, self.content, version("torch")])

    @property
    def logged(self) -> dict[str, object]:
        """Params and data, flat, as an MLflow run shows them."""
        data = {f"data.{Path(path).stem}": sha256 for path, sha256 in self.data.items()}
        return {**self.params, **data}


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested params as `a.b.c`, the way MLflow and DVC show them."""
    flat: dict[str, object] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _read_graph(backbone: str) -> dict[str, dict[str, Any]]:
    """The stages of `dvc.yaml`, those that go over the backbones for this one."""
    require_project()
    text = GRAPH.read_text(encoding="utf-8")
    stages = YAML(typ="safe").load(text.replace("${key}", backbone))["stages"]
    return {
        f"{name}@{backbone}" if "foreach" in stage else name: stage.get("do", stage)
        for name, stage in stages.items()
    }


def _maker(graph: Mapping[str, Mapping[str, Any]], path: str) -> str:
    """The stage that makes a file, or nothing: then 'dvc repro' runs what is missing."""
    return next((name for name, stage in graph.items() if path in stage.get("outs", [])), "")


def _place_of(path: str) -> Path:
    """Where a dep lies: code where the package is installed, all else in the project's folder."""
    return Path(__file__).parents[1] / path if path.startswith(_CODE) else Path(path)


def _digest_of(content: object) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_digest(paths: list[Path]) -> str:
    """One sha256 over the contents of several files, in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def model_digest(weights: Mapping[str, Path]) -> str:
    """What the fused model of the last run is told from others by: its fusion and its weights.

    Args:
        weights: the weights file of each backbone, in the order of params.yaml.
    """
    return content_digest([FUSION, *weights.values()])


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def code_digest(paths: Iterable[Path]) -> str:
    """One sha256 of what files do: of Python its syntax tree, of any other file its bytes.

    Comments, docstrings and the formatting of Python files change nothing of it. A new minor
    version of Python may.

    Args:
        paths: files, and folders of which every file counts, with its place in the folder. Where
            the paths themselves lie is not part of the digest; their order is.

    Raises:
        FileNotFoundError: a path does not exist.
        SyntaxError: a Python file can't be parsed.
    """
    digest = hashlib.sha256()
    for path in paths:
        for file in _files_below(path):
            digest.update(f"{file.relative_to(path).as_posix()}\n".encode())
            digest.update(_code_sha256(file))
    return digest.hexdigest()


def _files_below(path: Path) -> list[Path]:
    """A file itself; of a folder all files, without the bytecode that Python leaves there."""
    if not path.is_dir():
        return [path]
    found = (file for file in path.rglob("*") if "__pycache__" not in file.parts)
    return sorted(file for file in found if file.is_file())


def _code_sha256(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".py":
        tree = _WithoutDocstrings().visit(ast.parse(content, filename=str(path)))
        content = ast.dump(tree).encode()
    return hashlib.sha256(content).digest()


class _WithoutDocstrings(ast.NodeTransformer):
    """Removes every statement that is a text and nothing else."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    if "safe.directory" in done.stderr:
        log.warning("the commit is not recorded: %s", " ".join(done.stderr.split()))
    return done.stdout.strip() if done.returncode == 0 else ""
