"""Writes `params.yaml` for a run: a recipe, single values, or both."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from contextlib import suppress
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from fer_pipeline.errors import FlowError, ParamsError, one_line
from fer_pipeline.files import write_text
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
    text, present = compose(folder, recipe, overrides), _present(folder)
    if text == present:
        return False
    if not _is_known(folder, present):
        raise FlowError(
            f"{PARAMS} has changes that are in no commit and no recipe, and would be lost: commit "
            f"them, or run without recipe and overrides"
        )
    write_text(folder / _WRITTEN, text)
    write_text(folder / PARAMS, text)
    return True


def compose(folder: Path, recipe: str | None, overrides: Mapping[str, Any]) -> str:
    """What `apply` would write, without writing it.

    Raises:
        FlowError: there is no such recipe or key.
        ParamsError: the result is not valid.
    """
    text = _present(folder) if recipe is None else _recipe(folder, recipe)
    text = _override(text, overrides) if overrides else text
    with TemporaryDirectory() as temporary:
        candidate = Path(temporary) / PARAMS
        candidate.write_text(text, encoding="utf-8")
        try:
            require_known(load_params(candidate).backbones)
        except ParamsError as error:  # it names the candidate, which is gone when that is read
            raise ParamsError(str(error).replace(str(candidate), str(PARAMS))) from None
    return text


def _present(folder: Path) -> str:
    try:
        return (folder / PARAMS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        load_params(folder / PARAMS)  # it says what is wrong
        raise


def describe(recipe: str | None, overrides: Mapping[str, Any]) -> str:
    """What `apply` has written, such as `params.yaml of recipe quick with seed = 1`."""
    values = ", ".join(f"{key} = {value}" for key, value in overrides.items())
    said = (str(PARAMS), recipe and f"of recipe {recipe}", values and f"with {values}")
    return " ".join(filter(None, said))


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
    with suppress(OSError, UnicodeDecodeError):  # which the run says itself
        present = (folder / PARAMS).read_text(encoding="utf-8")
        return next((name for name, text in _recipes(folder).items() if text == present), "custom")
    return "custom"


def _recipe(folder: Path, name: str) -> str:
    known = _recipes(folder)
    if name not in known:
        raise FlowError(f"there is no recipe '{name}': choose among {', '.join(known)}")
    return known[name]


def _recipes(folder: Path) -> dict[str, str]:
    files = sorted((folder / RECIPES).glob("*.yaml"))
    return {file.stem: file.read_text(encoding="utf-8") for file in files}


class _WithNull(RoundTripRepresenter):
    """Writes `null` where a value is none: ruamel.yaml leaves it out.

    A class of its own: with the library's, DVC writes `dvc.lock` in this process.
    """


_WithNull.add_representer(
    type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null")
)


def _override(text: str, overrides: Mapping[str, Any]) -> str:
    """The text with other values; its comments stay."""
    yaml = YAML()
    yaml.Representer = _WithNull
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


def _is_known(folder: Path, text: str) -> bool:
    """Whether this content is a recipe's, a commit's, or was written by a run."""
    written = [file.read_text(encoding="utf-8") for file in folder.glob(str(_WRITTEN))]
    if text in (*_recipes(folder).values(), *written):
        return True
    committed = subprocess.run(
        ["git", "show", f"HEAD:./{PARAMS}"], cwd=folder, capture_output=True, check=False
    )
    return committed.returncode == 0 and committed.stdout == text.encode()
