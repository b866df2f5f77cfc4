"""Writes `params.yaml` for a run: a recipe, single values, or both."""

from __future__ import annotations

import filecmp
import subprocess
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from fer_pipeline.errors import FlowError, ParamsError, one_line
from fer_pipeline.files import whole_file, write_text
from fer_pipeline.models.catalog import require_known
from fer_pipeline.params.load import load_params
from fer_pipeline.paths import PARAMS, RECIPES

_WRITTEN = Path(".dvc/tmp/fer-params.yaml")
"""A copy of the `params.yaml` that the last run wrote; the next run may replace that."""


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
    present = _present(folder)
    text = _composed(folder, recipe, overrides)
    if text == present:
        return False
    if not _is_known(folder, present):
        raise FlowError(
            f"{PARAMS} has changes that are in no commit and no recipe, and would be lost: commit "
            f"them, or run without recipe and overrides"
        )
    with whole_file(folder / PARAMS) as partial:
        partial.write_text(text, encoding="utf-8")
        _require_valid(partial)
        write_text(folder / _WRITTEN, text)
    return True


def compose(folder: Path, recipe: str | None, overrides: Mapping[str, Any]) -> str:
    """What `apply` would write, without writing it.

    Raises:
        FlowError: there is no such recipe or key.
        ParamsError: the result is not valid.
    """
    text = _composed(folder, recipe, overrides)
    with TemporaryDirectory() as temporary:
        candidate = Path(temporary) / PARAMS
        candidate.write_text(text, encoding="utf-8")
        _require_valid(candidate)
    return text


def _composed(folder: Path, recipe: str | None, overrides: Mapping[str, Any]) -> str:
    text = _present(folder) if recipe is None else _recipe(folder, recipe)
    return _override(text, overrides) if overrides else text


def _present(folder: Path) -> str:
    try:
        return (folder / PARAMS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        load_params(folder / PARAMS)  # it says what is wrong
        raise


def describe_run(asked: Mapping[str, Any]) -> str:
    """A name for a run with these parameters of its flow, such as `quick seed=1 at 1a2b3c4`."""
    folder = Path(asked.get("folder") or ".")
    recipe = asked.get("recipe") or _present_recipe(folder)
    values = [f"{key}={value}" for key, value in (asked.get("overrides") or {}).items()]
    return f"{' '.join([recipe, *values])} at {commit(folder)}"


def commit(folder: Path) -> str:
    """The folder's commit in short, with `-dirty` where files differ from it."""
    asked = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.check_output(asked, stderr=subprocess.DEVNULL, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return "no commit"


def _present_recipe(folder: Path) -> str:
    for name, file in _recipes(folder).items():
        if (folder / PARAMS).exists() and filecmp.cmp(file, folder / PARAMS, shallow=False):
            return name
    return "custom"


def _recipe(folder: Path, name: str) -> str:
    known = _recipes(folder)
    if name not in known:
        raise FlowError(f"there is no recipe '{name}': choose among {', '.join(known)}")
    return known[name].read_text(encoding="utf-8")


def _recipes(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted((folder / RECIPES).glob("*.yaml"))}


def _override(text: str, overrides: Mapping[str, Any]) -> str:
    """The text with other values; its comments stay."""
    yaml = YAML()
    yaml.representer.add_representer(type(None), _represent_none)
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


def _represent_none(representer: Any, _: None) -> Any:
    """Write `null` where it stood; ruamel.yaml would leave the value out."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _require_valid(candidate: Path) -> None:
    try:
        require_known(load_params(candidate).backbones)
    except ParamsError as error:  # it names the candidate, which is gone when that is read
        raise ParamsError(str(error).replace(str(candidate), str(PARAMS))) from None


def _is_known(folder: Path, text: str) -> bool:
    """Whether this content is a recipe's, a commit's, or was written by a run."""
    copies = [*(folder / RECIPES).glob("*.yaml"), *folder.glob(str(_WRITTEN))]
    if any(text == file.read_text(encoding="utf-8") for file in copies):
        return True
    committed = subprocess.run(
        ["git", "show", f"HEAD:./{PARAMS}"], cwd=folder, capture_output=True, check=False
    )
    return committed.returncode == 0 and committed.stdout == text.encode()
