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
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from fer_pipeline.errors import ParamsError, one_line
from fer_pipeline.files import write_text
from fer_pipeline.models.catalog import require_known
from fer_pipeline.params.load import load_params
from fer_pipeline.paths import PARAMS
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
    present = _read(path)
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


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParamsError(f"{PARAMS} is missing: copy one from {RECIPES}/") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{PARAMS} is no text in UTF-8: {error}") from None


def _recipe(folder: Path, name: str) -> str:
    path = folder / RECIPES / f"{name}.yaml"
    if Path(name).name != name or not path.exists():
        known = ", ".join(sorted(file.stem for file in (folder / RECIPES).glob("*.yaml")))
        raise FlowError(f"there is no recipe '{name}': choose among {known}")
    return path.read_text(encoding="utf-8")


class _Representer(RoundTripRepresenter):
    """Leaves `null` where it stands; ruamel.yaml writes nothing for it."""

    def represent_none(self, data: None) -> ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_none)


def _overridden(text: str, overrides: Mapping[str, Any]) -> str:
    yaml = YAML()  # keeps the comments
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 4096
    try:
        content = yaml.load(text)
    except YAMLError as error:
        raise ParamsError(f"{PARAMS} is not valid YAML: {one_line(error)}") from None
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
        try:
            require_known(load_params(candidate).backbones)
        except ParamsError as error:  # it names the candidate, which is gone when that is read
            raise ParamsError(str(error).replace(str(candidate), str(PARAMS))) from None


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
