"""`params.yaml` as a run wants it: a recipe, single values, or as it is."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from fer_pipeline.layout import PARAMS
from fer_pipeline.models.catalog import require_known
from fer_pipeline.params import load_params
from fer_pipeline.writing import write_text
from flows.errors import FlowError

RECIPES = Path("recipes")

_WRITTEN = Path(".dvc/tmp/fer-params.sha256")
"""What the last run made of `params.yaml`: nobody's work, so the next run may replace it."""


def apply(folder: Path, recipe: str | None, overrides: Mapping[str, Any]) -> bool:
    """Write `params.yaml`; gives whether it changed.

    Args:
        folder: of `dvc.yaml`.
        recipe: a name in `recipes/`, without suffix; None keeps the present params.
        overrides: values by dotted key, such as `backbones.resnet50.finetune.epochs`.

    Raises:
        FlowError: there is no such recipe or key, or `params.yaml` holds changes that neither git
            nor a recipe knows, and would be lost.
        ParamsError: the result is not valid.
    """
    if recipe is None and not overrides:
        return False
    path = folder / PARAMS
    present = path.read_text(encoding="utf-8")
    text = present if recipe is None else _recipe(folder, recipe)
    if overrides:
        text = _overridden(text, overrides)
    if text == present:
        return False
    _require_valid(text)
    if not _is_known(folder, present):
        raise FlowError(
            f"{PARAMS} has changes that are in no commit and no recipe, and would be lost: commit "
            f"them, or run without recipe and overrides"
        )
    write_text(folder / _WRITTEN, _digest(text))
    write_text(path, text)
    return True


def _recipe(folder: Path, name: str) -> str:
    path = folder / RECIPES / f"{name}.yaml"
    if Path(name).name != name or not path.exists():
        known = ", ".join(sorted(file.stem for file in (folder / RECIPES).glob("*.yaml")))
        raise FlowError(f"there is no recipe '{name}': choose among {known}")
    return path.read_text(encoding="utf-8")


def _overridden(text: str, overrides: Mapping[str, Any]) -> str:
    yaml = YAML()  # keeps the comments
    yaml.preserve_quotes = True
    yaml.width = 4096
    content = yaml.load(text)
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        section = content
        for parent in parents:
            section = section.get(parent) if isinstance(section, Mapping) else None
        if not isinstance(section, Mapping) or last not in section:
            raise FlowError(f"{PARAMS} has no '{dotted}' to override")
        section[last] = value  # type: ignore[index]
    stream = StringIO()
    yaml.dump(content, stream)
    return stream.getvalue()


def _require_valid(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / PARAMS
        candidate.write_text(text, encoding="utf-8")
        require_known(load_params(candidate).backbones)


def _is_known(folder: Path, text: str) -> bool:
    """Whether this content can be had again, or was made by a run."""
    if any(text == file.read_text() for file in (folder / RECIPES).glob("*.yaml")):
        return True
    written = folder / _WRITTEN
    if written.exists() and written.read_text(encoding="utf-8") == _digest(text):
        return True
    committed = subprocess.run(
        ["git", "show", f"HEAD:./{PARAMS}"], cwd=folder, capture_output=True, check=False
    )
    return committed.returncode == 0 and committed.stdout == text.encode()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def described(recipe: str | None, overrides: Mapping[str, Any]) -> str:
    """What was applied, in words."""
    parts = [f"recipe {recipe}"] if recipe else []
    return ", ".join([*parts, *(f"{key} = {value}" for key, value in overrides.items())])
