"""`data/source.lock.yaml`: the one version of the one source that the pipeline may read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import YAMLError

from fer_pipeline.data.profile import Profile
from fer_pipeline.errors import DataError, hide_password, one_line
from fer_pipeline.files import whole_file


def require_no_secret(uri: str) -> None:
    """Refuse an address with a login or a token, which would be committed with the pin.

    Raises:
        DataError: it has one; the message does not repeat it.
    """
    if (shown := hide_password(uri)) != uri:
        raise DataError(
            f"{shown}: what looks like a secret in its address would be committed with the pin: "
            f"put a login into ~/.netrc, or for s3:// into AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY, and leave it out of the address"
        )


@dataclass(frozen=True)
class FilePin:
    """One version of a file or folder.

    Attributes:
        uri: `sample`, a path, `https://…` or `s3://bucket/key`.
        version: the server's name for it, the sample's version, or empty.
        size: in bytes, or 0 for the sample.
        sha256: of its bytes, or empty for the sample.
    """

    uri: str
    version: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        require_no_secret(self.uri)


@dataclass(frozen=True)
class Earlier:
    """The version that was pinned before, and what it looked like."""

    source: FilePin
    profile: Profile


@dataclass(frozen=True)
class Pin:
    """What is pinned.

    Attributes:
        source: of the faces.
        ferplus: FER+'s votes, where they are a file of their own.
        profile: of the faces, or None for the sample, whose size params decide.
        previous: the last version with other bytes; what drift is measured against.
    """

    source: FilePin
    ferplus: FilePin | None
    profile: Profile | None
    previous: Earlier | None

    @property
    def command(self) -> str:
        """What takes the present version of the same source, its votes included."""
        votes = f" --ferplus {self.ferplus.uri}" if self.ferplus else ""
        return f"fer source pin {self.source.uri}{votes}"


def read_pin(path: Path) -> Pin:
    """The pin in a lock file.

    Raises:
        DataError: there is no such file, or it is no pin.
    """
    try:
        content: object = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        return TypeAdapter(Pin).validate_python(content)
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing: run 'fer source pin URI' in the project's folder"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        reason = f"{place}: {first['msg']}"
    except (OSError, YAMLError, ValueError) as error:  # such as an impossible date
        reason = one_line(error)
    raise DataError(f"{path} is no source lock ({reason}): delete it and run 'fer source pin URI'")


def write_pin(pin: Pin, path: Path) -> None:
    """Write the lock file, with each row of counts on a line of its own."""
    yaml = YAML()
    yaml.width = 1 << 16
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as stream:
        yaml.dump(_compact(asdict(pin)), stream)


def _compact(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _compact(value) for key, value in content.items()}
    if isinstance(content, tuple):
        row = CommentedSeq(content)
        row.fa.set_flow_style()
        return row
    return content
