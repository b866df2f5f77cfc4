"""Reading and validating `params.yaml`: one clear line for what is wrong. YAML 1.2, as in DVC."""

from __future__ import annotations

import difflib
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from fer_pipeline.errors import ParamsError
from fer_pipeline.params.schema import Params, Section

_WANTED = {
    "bool_type": "be true or false",
    "dict_type": "be a mapping",
    "model_type": "be a mapping",
    "too_short": "not be empty",
    "tuple_type": "be a list of two numbers",
}
"""What a value must be, by pydantic's type of error, where pydantic's own words are no YAML's."""


def load_params(path: Path) -> Params:
    """Read and validate a params file.

    Raises:
        ParamsError: the file is missing or no YAML, or a key is unknown, missing or
            impossible; the message names the file, the key and the value seen.
    """
    try:
        content: object = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(
            f"{path} is missing: run this in the project's folder, or copy one from recipes/"
        ) from None
    except OSError as error:
        raise ParamsError(f"{path} can't be read: {error.strerror}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{path} is empty or no mapping: copy one from recipes/ to start")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise ParamsError(f"{path}: {_explain(error.errors())}") from None


def _explain(faults: list[ErrorDetails]) -> str:
    # A misspelt key is both missing and unknown; only the latter can say what was meant.
    first = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")
    others = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return _explain_fault(first) + others


def _explain_fault(fault: ErrorDetails) -> str:
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(fault["loc"][-1]), _known_keys(Section), n=1)
        hint = f"did you mean '{close[0]}'?" if close else "remove it"
        if key == "data.source":
            hint = "remove it, and run 'fer source pin URI'"
        return f"{key} is not a known key: {hint}"
    if fault["type"] == "missing":
        return f"{key} is missing: see recipes/ for complete files"
    if not key:  # of several keys together: it names them
        return str(fault["ctx"]["error"])
    return f"{key} is {fault['input']!r}: it must {_wanted(fault)}"


def _wanted(fault: ErrorDetails) -> str:
    """What a value must be, as it goes on after "it must"."""
    if fault["type"] == "value_error":  # raised by a validator of the schema
        return f"be {fault['ctx']['error']}"
    return _WANTED.get(fault["type"], fault["msg"].rpartition(" should ")[2])


def _known_keys(section: type[Section]) -> list[str]:
    """Every key of a section and of those that build on it: the vocabulary for spelling hints."""
    keys = list(section.model_fields)
    for found in section.__subclasses__():
        keys.extend(_known_keys(found))
    return keys
