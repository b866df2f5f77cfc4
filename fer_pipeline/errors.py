"""Everything that FER Fusion raises on purpose.

    FerError                 base: one line that says what was wrong, where, and what to do
    ├── ParamsError          params.yaml or a recipe
    ├── DataError            a source, or a file of the graph, missing or not what it should be
    │   ├── SourceUnreachableError
    │   └── DvcBusyError
    ├── WeightsError         initial weights that can't be had or don't fit
    ├── TrainingError        a training that can't go on
    │   └── SharedTrainingError
    ├── FusionError          logits or weights that can't be fused
    ├── RegistryError        an MLflow server or registry that can't be used
    │   ├── RegistryUnreachableError
    │   └── RegistryBusyError
    ├── RequestError         what a client sent to the served model
    └── FlowError            a flow that can't start or go on
        ├── TransientFlowError
        └── StoppedError

A gate that does not pass is a result (`fer_pipeline.evaluation.gate.Verdict`), not an error.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import ClassVar

LONGEST_QUOTE = 400
"""The number of characters of another library's message that stand inside one of ours."""


class FerError(Exception):
    """Base of all errors whose message is meant for the user, without a traceback.

    Attributes:
        transient: whether the same may well succeed a minute later, with nothing changed here.
    """

    transient: ClassVar[bool] = False


class ParamsError(FerError):
    """`params.yaml` or a recipe can't be used."""


class DataError(FerError):
    """A data source, or a file of the graph, is missing, damaged or of the wrong kind."""


class SourceUnreachableError(DataError):
    """The server of a source does not answer, or broke off."""

    transient = True


class DvcBusyError(DataError):
    """A DVC command works in the folder at this moment."""

    transient = True

    def __init__(self, folder: Path) -> None:
        super().__init__(f"a DVC command runs in {folder.resolve()}: wait until it has ended")


class WeightsError(FerError):
    """Initial weights can't be fetched, read or fitted to the backbone."""


class TrainingError(FerError):
    """A training can't go on."""


class SharedTrainingError(TrainingError):
    """It can't go on on any of the devices that share it: the first one speaks for all."""


class FusionError(FerError):
    """Logits or weights can't be fused."""


class RegistryError(FerError):
    """The MLflow server or registry can't be used."""


class RegistryUnreachableError(RegistryError):
    """The MLflow server does not answer."""

    transient = True


class RegistryBusyError(RegistryError):
    """Another process is writing to the registry at this moment."""

    transient = True


class RequestError(FerError):
    """A client sent something that is no face."""


class FlowError(FerError):
    """A flow can't start or go on."""


class TransientFlowError(FlowError):
    """Another process is in the way, or a server does not answer; this may pass by itself."""

    transient = True


class StoppedError(FlowError):
    """A flow run is ending, and starts nothing more."""


def one_line(error: BaseException) -> str:
    """What an exception of another library says, short enough to stand inside a message."""
    text = hide_password(re.sub(r"\x1b\[[0-9;]*m", "", str(error)))  # without a terminal's colours
    return textwrap.shorten(text, LONGEST_QUOTE, placeholder=" …") or type(error).__name__


def hide_password(text: str) -> str:
    """The text without what looks like a secret in its addresses.

    That is who logs in (`//user:password@`), whatever signs are in the password, and the values of
    signatures, tokens and keys in the query of a link.
    """
    return _ADDRESS.sub(lambda found: f"{found[1]}{_LOGIN.sub('', _hide_values(found[2]))}", text)


def _hide_values(address: str) -> str:
    return _VALUE.sub(
        lambda found: f"{found[1]}…" if _SECRET_NAME.search(found[2]) else found[0], address
    )


_ADDRESS = re.compile(r"([a-zA-Z][\w+.-]*://)([^\s'\"<>]+)")
_LOGIN = re.compile(r"^[^/?#@:]*(?::.*)?@")  # a password may hold any sign, also / and @
_VALUE = re.compile(r"([?&#;]([^=?&#;]+)=)[^&#;]+")
_SECRET_NAME = re.compile(
    r"signature|token|secret|passw|pwd|credential|access_?-?key|key$"
    r"|(^|[-_.])(sig|auth|authorization|jwt|pass|session)($|[-_.])",
    re.IGNORECASE,
)
